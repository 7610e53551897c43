// Small tensors on their way between host and device that nobody waits for: HostCopy is a result, so that the
// host can queue more work before it looks, CopyOn a few constants.
#pragma once

#include "ATen/core/Tensor.h"
#include "c10/core/Device.h"
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

// The host's tensor on the device. Throws like LibTorch.
at::Tensor CopyOn(c10::Device device, const at::Tensor& host);

}  // namespace eigsvc
