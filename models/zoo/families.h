// What each family gives the registry: FamilyEntry LlamaFamily(), ...
#pragma once

#include "models/zoo/registry.h"

namespace eigsvc {

#define EIGSVC_FAMILY(NAME) FamilyEntry NAME##Family();
#include "models/archive/families.inc"

}  // namespace eigsvc
