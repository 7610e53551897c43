// The settings of norm attention's learned normaliser. The same words mean other functions in the two papers'
// repositories, so the layout decides.
#pragma once

#include "absl/status/status.h"
#include "models/mixers/normalized_attention.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

// norm_fn of `spec`, and of the paper's layout approx_fn, scale_B, offset_init, mode and learn_A. Required of
// a checkpoint, whose weights do not tell. FAILED_PRECONDITION naming the setting and what is supported.
absl::Status ReadNormFunction(SettingsReader& reader, bool fresh, bool paper, NormalizedAttentionSpec& spec);

}  // namespace eigsvc
