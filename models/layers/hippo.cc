#include "models/layers/hippo.h"

#include <mutex>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/diag.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/linalg_eigh.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/sqrt.h"
#include "ATen/ops/tril.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"

namespace eigsvc {
namespace {

Hippo Compute(int64_t order) {
  const c10::NoGradGuard no_grad;
  const at::Tensor n = at::arange(order, at::TensorOptions(at::kDouble));
  const at::Tensor root = at::sqrt(1 + 2 * n), p = at::sqrt(n + 0.5);
  // A = -(tril(r rᵀ) - diag(n)); A + p pᵀ is -1/2·I plus a skew-symmetric matrix.
  const at::Tensor a = -(at::tril(root.unsqueeze(-1) * root) - at::diag(n));
  const at::Tensor skew = a + p.unsqueeze(-1) * p + 0.5 * at::eye(order, n.options());
  const auto [frequencies, vectors] =
      at::linalg_eigh(at::complex(at::zeros_like(skew), -skew));  // of -i·skew, Hermitian
  const auto turned = [&, v = vectors](const at::Tensor& x) {
    return at::matmul(v.mH(), at::complex(x, at::zeros_like(x)));
  };
  return {at::complex(at::full_like(frequencies, -0.5), frequencies), turned(p), turned(root), vectors};
}

}  // namespace

Hippo HippoLegS(int64_t order) {
  static std::mutex mutex;
  static Hippo* const last = new Hippo;
  const std::lock_guard lock(mutex);
  if (!last->lambda.defined() || last->lambda.size(0) != order) *last = Compute(order);
  return *last;
}

}  // namespace eigsvc
