// Selective copying (Jing et al. 2019; Gu and Dao, arXiv 2312.00752): some tokens stand between blanks, and
// are to be named in their order at the end. A diagnostic: how much must be remembered, and for how long, is
// known. With placement=start it is the copying task of Arjovsky et al. (arXiv 1511.06464).
//
// An example: L steps, of which M hold a token of 2..V-1 and the rest the blank 0; then M markers, 1, at
// which the tokens are asked. A model that answers all of them has kept M·log2(V-2) bits.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry SelectiveCopyingEntry();  // the entry of the registry

}  // namespace eigsvc
