// IMDb (Maas et al., ACL 2011) letter by letter: is a film review positive? From the published folders or the
// .tar.gz they come in.
//
// A sequence is the review's characters, or its bytes, then <eos>. Ids: 0 <pad>, 1 <unk>, 2 <eos>, then the
// characters of the parameter `vocabulary`, or the 256 bytes. Class 0 is negative, 1 positive. Reviews are
// served in an order drawn from the seed, because the folders hold one class after the other.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry ImdbEntry();  // the entry of the registry

}  // namespace eigsvc
