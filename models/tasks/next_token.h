// Next-token prediction over a file of token ids: perplexity and per-token accuracy.
//
// Each sequence of the file is cut into blocks that do not overlap; a block is one example, its first token
// is not scored (nothing precedes it), and the model sees nothing of the block before. A rest of one token is
// left out.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

// The entry of the registry. `data_path`: see token_file.h.
TaskEntry NextTokenEntry();

}  // namespace eigsvc
