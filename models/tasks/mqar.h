// MQAR: multi-query associative recall (HazyResearch/zoology; arXiv 2312.04927).
//
// An example: k1 v1 ... kN vN (P times), then a query area cut into slots of two tokens. Each key is asked
// once, in a slot of its own; the value is expected at the key's own position and never appears in the query
// area.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry MqarEntry();  // the entry of the registry

}  // namespace eigsvc
