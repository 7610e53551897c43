// Next-token prediction over a file of token ids: perplexity and per-token accuracy. Each sequence of the
// file is cut into blocks; a block is one example (token_blocks.h).
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry NextTokenEntry();  // the entry of the registry; its data: readers/token_file.h

}  // namespace eigsvc
