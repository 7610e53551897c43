// What each family gives the registry; registry.cc is the only includer beside the families themselves.
#pragma once

#include "models/zoo/registry.h"

namespace eigsvc {

FamilyEntry FlaTransformerFamily();      // llama.cc
FamilyEntry Gemma2Family();              // llama.cc
FamilyEntry Gpt2Family();                // gpt2.cc
FamilyEntry GptNeoxFamily();             // gpt_neox.cc
FamilyEntry GptOssFamily();              // llama.cc
FamilyEntry GraniteFamily();             // llama.cc
FamilyEntry LlamaFamily();               // llama.cc
FamilyEntry Mamba2Family();              // mamba2.cc
FamilyEntry MinistralFamily();           // llama.cc
FamilyEntry MistralFamily();             // llama.cc
FamilyEntry Olmo2Family();               // llama.cc
FamilyEntry Olmo3Family();               // llama.cc
FamilyEntry Qwen2Family();               // llama.cc
FamilyEntry Qwen3Family();               // llama.cc
FamilyEntry SoftmaxAttentionFamily();    // softmax_attention.cc
FamilyEntry ZoologyTransformerFamily();  // zoology_transformer.cc

}  // namespace eigsvc
