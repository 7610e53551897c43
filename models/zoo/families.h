// What each family gives the registry; registry.cc is the only includer beside the families themselves.
#pragma once

#include "models/zoo/registry.h"

namespace eigsvc {

FamilyEntry DeltaNetFamily();            // delta_net.cc
FamilyEntry FlaTransformerFamily();      // llama.cc
FamilyEntry GatedDeltaNetFamily();       // delta_net.cc
FamilyEntry GatedDeltaProductFamily();   // delta_net.cc
FamilyEntry Gemma2Family();              // llama.cc
FamilyEntry GlaFamily();                 // gated_linear_attention.cc
FamilyEntry Gpt2Family();                // gpt2.cc
FamilyEntry GptNeoxFamily();             // gpt_neox.cc
FamilyEntry GptOssFamily();              // llama.cc
FamilyEntry GraniteFamily();             // llama.cc
FamilyEntry Hgrn2Family();               // gated_linear_attention.cc
FamilyEntry HgrnFamily();                // gated_linear_attention.cc
FamilyEntry KdaFamily();                 // delta_net.cc
FamilyEntry LlamaFamily();               // llama.cc
FamilyEntry Mamba2Family();              // mamba2.cc
FamilyEntry MinistralFamily();           // llama.cc
FamilyEntry MistralFamily();             // llama.cc
FamilyEntry Olmo2Family();               // llama.cc
FamilyEntry Olmo3Family();               // llama.cc
FamilyEntry Qwen2Family();               // llama.cc
FamilyEntry Qwen3Family();               // llama.cc
FamilyEntry RetNetFamily();              // gated_linear_attention.cc
FamilyEntry Rwkv7Family();               // rwkv7.cc
FamilyEntry SoftmaxAttentionFamily();    // softmax_attention.cc
FamilyEntry ZoologyTransformerFamily();  // zoology_transformer.cc

}  // namespace eigsvc
