// PNG files of pictures: one byte a pixel, the level itself, with a palette, so that a reader of the file can
// tell the levels again. Thread-safe: a pure function.
#pragma once

#include <string>

#include "server/plane/plane.h"

namespace eigsvc {

std::string EncodePng(const Picture& picture);

}  // namespace eigsvc
