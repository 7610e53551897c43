// HostCopy: a small result on its way from a device to the host, so that the host can queue more work before
// it looks.
#pragma once

#include "ATen/core/Tensor.h"
#include "c10/core/Event.h"

namespace eigsvc {

// Throws like LibTorch. Thread rule: one thread, the one whose current stream the work is queued on.
class HostCopy {
 public:
  explicit HostCopy(const at::Tensor& source);

  // On the host. Waits for what was queued before the copy, not for what came after it.
  const at::Tensor& Wait();

 private:
  at::Tensor host_;
  c10::Event done_;
};

}  // namespace eigsvc
