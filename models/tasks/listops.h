// Long ListOps (Long Range Arena, arXiv 2011.04006): the value, 0 to 9, of a nested expression of 500 to 2000
// symbols; from the benchmark's .tsv files, or drawn by its generator.
//
// A sequence is the expression's symbols without parentheses, then <eos>. Ids: 0 <pad>, 1 <unk>, 2 <eos>,
// then the 15 symbols in the order of the parameter `vocabulary`. The label is always recomputed.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry ListOpsEntry();  // the entry of the registry

}  // namespace eigsvc
