#include "models/layers/ssd_by_blocks.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/bmm.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/empty.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/ssd_blocks.h"
#include "models/layers/blocks.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

// Longer than on a CPU: states, which are passed once a block, weigh more against the steps' own products.
constexpr int64_t kBlock = 128;
constexpr int64_t kBlockMultiple = 8;  // rows of products begin where vectors can

// Runs a pass on the device that holds its tensors.
template <typename Plain, typename OnCuda>
void RunPass(const SsdBlocks& blocks, c10::Device device, Plain plain, OnCuda on_cuda) {
#ifdef EIGSVC_CUDA_KERNELS
  if (device.is_cuda()) {
    const c10::DeviceGuard guard(device);
    ThrowUnlessOk(on_cuda(blocks, KernelStream(device)));
    return;
  }
#endif
  (void)device;
  (void)on_cuda;
  plain(blocks);
}
#ifdef EIGSVC_CUDA_KERNELS
#define EIGSVC_PASS(NAME) NAME##Plainly, NAME##OnCuda
#else
#define EIGSVC_PASS(NAME) NAME##Plainly, nullptr
#endif

const float* FloatsOf(const at::Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }

// [batches,n,k]·[batches,k,m] in float32, whatever the dtype of both.
at::Tensor WideProduct(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == at::kFloat ? at::bmm(a, b) : at::bmm(a, b, at::kFloat);
}

}  // namespace

bool SsdGoesByBlocks(const at::Tensor& x, int64_t heads) {
  constexpr int64_t kMostHeads = 65535;  // of all rows, in one launch
  return LayerKernelsTake(x) && x.scalar_type() != at::kHalf && x.size(0) * heads <= kMostHeads;
}

SsdOutput SsdByBlocks(const SsdInput& input) {
  SsdBlocks blocks;
  SsdShape& s = blocks.shape;
  s.batch = input.x.size(0);
  s.steps = input.x.size(1);
  s.heads = input.x.size(2);
  s.width = input.x.size(3);
  s.groups = input.b.size(2);
  s.order = input.b.size(3);
  s.blocks = (s.steps + kBlock - 1) / kBlock;
  s.block = (s.steps + s.blocks - 1) / s.blocks;
  s.block = (s.block + kBlockMultiple - 1) / kBlockMultiple * kBlockMultiple;
  s.element = *ElementOf(input.x.scalar_type());
  const int64_t groups = s.batch * s.blocks * s.groups, heads = s.batch * s.blocks * s.heads;
  const int64_t shared = s.heads / s.groups * s.width;
  const c10::Device device = input.x.device();

  const bool dense = input.x.stride(3) == 1 && input.x.stride(2) == s.width;
  const at::Tensor x = dense ? input.x : input.x.contiguous();
  blocks.x = x.const_data_ptr();
  blocks.x_batch_stride = x.stride(0);
  blocks.x_step_stride = x.stride(1);
  const at::Tensor dt = input.dt.defined() ? input.dt.to(at::kFloat) : at::Tensor();
  if (dt.defined()) {
    blocks.dt_batch_stride = dt.stride(0);
    blocks.dt_step_stride = dt.stride(1);
    blocks.dt_head_stride = dt.stride(2);
  }
  blocks.dt = FloatsOf(dt);
  const at::Tensor running = at::cumsum(
      IntoBlocks(input.log_decay, s.blocks, s.block).transpose(2, 3).contiguous(), -1, at::kDouble);
  blocks.running = running.const_data_ptr<double>();
  const auto by_group = [&](const at::Tensor& t) {  // [B,T,G,N] -> [B·K·G,Q,N]
    return IntoBlocks(t, s.blocks, s.block).transpose(2, 3).reshape({groups, s.block, s.order});
  };
  const at::Tensor b = by_group(input.b), c = by_group(input.c);

  const at::Tensor by_head = at::empty({heads, s.block, s.width}, x.options()),
                   weighted = at::empty({groups, s.block, shared}, x.options());
  blocks.by_head = by_head.mutable_data_ptr();
  blocks.weighted = weighted.mutable_data_ptr();
  RunPass(blocks, device, EIGSVC_PASS(SplitInputs));

  at::Tensor scores = WideProduct(c, b.transpose(1, 2));  // [B·K·G,Q,Q]
  blocks.scores = scores.const_data_ptr<float>();
  at::Tensor mixing = at::empty({heads, s.block, s.block}, x.options());
  blocks.mixing = mixing.mutable_data_ptr();
  RunPass(blocks, device, EIGSVC_PASS(MixSteps));
  const at::Tensor inside = at::bmm(mixing, by_head);  // [B·K·H,Q,P]
  blocks.inside = inside.const_data_ptr();
  scores.reset();
  mixing.reset();

  at::Tensor added = WideProduct(weighted.transpose(1, 2), b);  // [B·K·G,(H/G)·P,N]
  const at::Tensor initial =
      input.initial_state.defined() ? input.initial_state.to(at::kFloat).contiguous() : at::Tensor();
  at::Tensor starts = at::empty(added.sizes(), x.options());
  SsdOutput output;
  output.final_state = at::empty({s.batch, s.heads, s.width, s.order}, x.options().dtype(at::kFloat));
  blocks.added = added.const_data_ptr<float>();
  blocks.initial = FloatsOf(initial);
  blocks.starts = starts.mutable_data_ptr();
  blocks.final_state = output.final_state.mutable_data_ptr<float>();
  RunPass(blocks, device, EIGSVC_PASS(PassStates));
  added.reset();
  const at::Tensor carried = at::bmm(c, starts.transpose(1, 2));  // [B·K·G,Q,(H/G)·P]
  blocks.carried = carried.const_data_ptr();
  starts.reset();

  const at::Tensor skip = input.skip.defined() ? input.skip.to(at::kFloat).contiguous() : at::Tensor();
  blocks.skip = FloatsOf(skip);
  blocks.skip_per_channel = skip.defined() && skip.numel() == s.heads * s.width && s.width > 1;
  output.y = at::empty({s.batch, s.steps, s.heads, s.width}, x.options());
  blocks.y = output.y.mutable_data_ptr();
  RunPass(blocks, device, EIGSVC_PASS(JoinOutputs));
  return output;
}

#undef EIGSVC_PASS

}  // namespace eigsvc
