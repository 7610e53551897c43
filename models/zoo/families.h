// What each family gives the registry; registry.cc is the only includer beside the families themselves.
#pragma once

#include "models/zoo/registry.h"

namespace eigsvc {

FamilyEntry Gpt2Family();              // gpt2.cc
FamilyEntry LlamaFamily();             // llama.cc
FamilyEntry Mamba2Family();            // mamba2.cc
FamilyEntry Qwen3Family();             // qwen3.cc
FamilyEntry SoftmaxAttentionFamily();  // softmax_attention.cc

}  // namespace eigsvc
