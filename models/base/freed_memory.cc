#include "models/base/freed_memory.h"

#include <cstdlib>  // says whether this is glibc

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace eigsvc {

#ifdef __GLIBC__
void KeepFreedMemory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_ARENA_MAX, 1);
}
void ReleaseFreedMemory() { malloc_trim(0); }
#else
void KeepFreedMemory() {}
void ReleaseFreedMemory() {}
#endif

}  // namespace eigsvc
