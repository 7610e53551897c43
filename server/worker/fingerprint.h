// Fingerprint: whether a checkpoint's files are the ones seen before, without reading them. A pool hit on a
// file of many gigabytes must not cost the hashing of it.
#pragma once

#include <string>

namespace eigsvc {

// Device, inode, size and change times of the file and the config.json beside it, or of everything directly
// inside a directory. Empty when it cannot be vouched for: a file that cannot be read, or one changed within
// the last 50 ms, whose next change the file system's clock may not tell apart.
std::string Fingerprint(const std::string& path);

}  // namespace eigsvc
