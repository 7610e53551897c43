// What each family gives the registry; registry.cc is the only includer beside the families themselves.
#pragma once

#include "models/zoo/registry.h"

namespace eigsvc {

FamilyEntry BambaFamily();               // bamba.cc
FamilyEntry BasedFamily();               // based.cc
FamilyEntry DeltaNetFamily();            // delta_net.cc
FamilyEntry FalconH1Family();            // falcon_h1.cc
FamilyEntry FalconMambaFamily();         // mamba.cc
FamilyEntry FlaTransformerFamily();      // llama.cc
FamilyEntry GatedDeltaNetFamily();       // delta_net.cc
FamilyEntry Gemma2Family();              // llama.cc
FamilyEntry GlaFamily();                 // gated_linear_attention.cc
FamilyEntry Gpt2Family();                // gpt2.cc
FamilyEntry GptNeoxFamily();             // gpt_neox.cc
FamilyEntry GptOssFamily();              // llama.cc
FamilyEntry GraniteFamily();             // llama.cc
FamilyEntry GraniteHybridFamily();       // bamba.cc
FamilyEntry GruFamily();                 // rnn.cc
FamilyEntry Hgrn2Family();               // gated_linear_attention.cc
FamilyEntry HgrnFamily();                // gated_linear_attention.cc
FamilyEntry JambaFamily();               // jamba.cc
FamilyEntry KdaFamily();                 // delta_net.cc
FamilyEntry LinearAttentionFamily();     // paper_transformer.cc
FamilyEntry LinearAttnFamily();          // linear_attn.cc
FamilyEntry LlamaFamily();               // llama.cc
FamilyEntry LruFamily();                 // paper_ssm.cc
FamilyEntry LstmFamily();                // rnn.cc
FamilyEntry Mamba2Family();              // mamba2.cc
FamilyEntry MambaFamily();               // mamba.cc
FamilyEntry MinGruFamily();              // min_rnn.cc
FamilyEntry MinLstmFamily();             // min_rnn.cc
FamilyEntry MinistralFamily();           // llama.cc
FamilyEntry MistralFamily();             // llama.cc
FamilyEntry NemotronHFamily();           // nemotron_h.cc
FamilyEntry NormAttentionFamily();       // paper_transformer.cc
FamilyEntry Olmo2Family();               // llama.cc
FamilyEntry Olmo3Family();               // llama.cc
FamilyEntry Qwen2Family();               // llama.cc
FamilyEntry Qwen3Family();               // llama.cc
FamilyEntry Qwen3NextFamily();           // qwen3_next.cc
FamilyEntry RecurrentGemmaFamily();      // recurrent_gemma.cc
FamilyEntry RetNetFamily();              // gated_linear_attention.cc
FamilyEntry RnnFamily();                 // rnn.cc
FamilyEntry Rwkv4Family();               // rwkv4.cc
FamilyEntry Rwkv6Family();               // rwkv6.cc
FamilyEntry Rwkv7Family();               // rwkv7.cc
FamilyEntry S4Family();                  // s4.cc
FamilyEntry S4dFamily();                 // s4.cc
FamilyEntry S5Family();                  // paper_ssm.cc
FamilyEntry SoftmaxAttentionFamily();    // paper_transformer.cc
FamilyEntry XlstmFamily();               // xlstm.cc
FamilyEntry Zamba2Family();              // zamba2.cc
FamilyEntry ZoologyTransformerFamily();  // zoology_transformer.cc

}  // namespace eigsvc
