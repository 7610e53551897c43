#include "models/transition/pieces.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "models/base/status_macros.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/symmetric_rank_one.h"

namespace eigsvc {
namespace {

constexpr absl::Duration kPiece = absl::Milliseconds(25);
constexpr int64_t kMostDoubles = int64_t{1} << 23;
constexpr int64_t kPack = kMostPacked / 2;  // in float64

}  // namespace

double SolverOperations(int64_t size) {
  const auto n = static_cast<double>(size);
  return 25 * n * n * n;
}

absl::StatusOr<at::Tensor> InPieces(
    int64_t count, double operations, int64_t doubles, const StopToken* stop,
    absl::FunctionRef<absl::StatusOr<at::Tensor>(int64_t begin, int64_t length)> solve) {
  const int64_t most = std::max<int64_t>(1, kMostDoubles / std::max<int64_t>(1, doubles));
  const int64_t unit = operations <= SolverOperations(kMaxBatchedOrder) ? kPack : 1;
  double wanted = 2e7 / operations;
  std::vector<at::Tensor> pieces;
  for (int64_t begin = 0; begin < count || pieces.empty();) {
    if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
    const int64_t units = std::clamp<int64_t>(static_cast<int64_t>(wanted), 1, most) / unit;
    const int64_t length = std::min(std::max<int64_t>(units, 1) * unit, count - begin);
    const absl::Time start = absl::Now();
    EIGSVC_ASSIGN_OR_RETURN(at::Tensor piece, solve(begin, length));
    pieces.push_back(std::move(piece));
    begin += length;
    const double room = kPiece / std::max(absl::Now() - start, absl::Microseconds(10));
    wanted = static_cast<double>(length) * std::clamp(room, 0.25, 4.0);
  }
  return pieces.size() == 1 ? pieces[0] : at::cat(pieces, 0);
}

absl::StatusOr<at::Tensor> DenseEigenvaluesInPieces(const at::Tensor& matrices, const StopToken* stop,
                                                    int64_t* redone) {
  const int64_t size = matrices.size(-1);
  return InPieces(matrices.size(0), SolverOperations(size), 3 * size * size, stop,
                  [&](int64_t begin, int64_t length) {
                    return DenseEigenvalues(matrices.narrow(0, begin, length), redone);
                  });
}

absl::StatusOr<at::Tensor> SymmetricRankOneEigenvalues(const at::Tensor& d, const at::Tensor& z,
                                                       const StopToken* stop) {
  const int64_t size = d.size(-1);
  // Some seven rounds a root, of about as many operations a pole as a division costs.
  const double operations = 120 * static_cast<double>(size) * static_cast<double>(size);
  return InPieces(d.size(0), operations, 3 * size, stop, [&](int64_t begin, int64_t length) {
    return SymmetricRankOne(d.narrow(0, begin, length), z.narrow(0, begin, length));
  });
}

}  // namespace eigsvc
