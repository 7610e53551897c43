// What each family gives the registry; registry.cc is the only includer beside the families themselves.
#pragma once

#include "models/zoo/registry.h"

namespace eigsvc {

FamilyEntry Mamba2Family();  // mamba2.cc

}  // namespace eigsvc
