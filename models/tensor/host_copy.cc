#include "models/tensor/host_copy.h"

#include "ATen/ops/empty.h"
#include "c10/core/impl/VirtualGuardImpl.h"

namespace eigsvc {

HostCopy::HostCopy(const at::Tensor& source) : host_(source), done_(source.device().type()) {
  if (source.is_cpu()) return;
  host_ = at::empty(source.sizes(),
                    source.options().device(at::kCPU).pinned_memory(true));  // else the copy would wait
  host_.copy_(source, /*non_blocking=*/true);
  done_.record(c10::impl::VirtualGuardImpl(source.device().type()).getStream(source.device()));
}

at::Tensor CopyOn(c10::Device device, const at::Tensor& host) {
  // From memory that is not page-locked, the copy would wait.
  return device.is_cpu() ? host : host.pin_memory().to(device, host.scalar_type(), /*non_blocking=*/true);
}

const at::Tensor& HostCopy::Wait() {
  if (done_.was_marked_for_recording()) done_.synchronize();
  return host_;
}

}  // namespace eigsvc
