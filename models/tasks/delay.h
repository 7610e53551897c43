// Delay: say again what was read `lag` steps ago, at every step. A diagnostic: the state must hold exactly
// the last `lag` tokens, lag·log2(V) bits, and forget each when its turn has come; the smallest linear system
// that does it is a shift register, whose eigenvalues are all 0. With lag=0 nothing needs to be kept.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry DelayEntry();  // the entry of the registry

}  // namespace eigsvc
