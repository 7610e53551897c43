// What becomes of memory that is freed, in processes that take and free tensors of many MB in turn. Of glibc;
// nothing happens elsewhere.
#pragma once

namespace eigsvc {

// It stays with the process, whose next tensor then needs no pages of the kernel: each would be cleared and
// mapped again, which took Llama a thirteenth of its pass on a CPU. All threads share one arena, as others
// end at 64 MB. Before other threads start.
void KeepFreedMemory();
// Gives the kernel what is kept: between jobs. Thread-safe.
void ReleaseFreedMemory();

}  // namespace eigsvc
