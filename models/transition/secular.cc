#include "models/transition/secular.h"

#include <algorithm>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

namespace mp = boost::multiprecision;
template <unsigned bits>
using Float = mp::number<mp::cpp_bin_float<bits, mp::digit_base_2>, mp::et_off>;

using Complex = std::complex<double>;
constexpr int kMostSweeps = 200;
constexpr double kNudge = 0x1p-100;     // off a pole, relative to ‖A‖
constexpr double kConverged = 0x1p-64;  // a correction relative to its root; the next would be its cube

// std::complex is specified for the built-in types only.
template <typename Real>
struct Number {
  Real re{0}, im{0};
  Number() = default;
  Number(Real real, Real imaginary) : re(std::move(real)), im(std::move(imaginary)) {}
  explicit Number(const Complex& z) : re(z.real()), im(z.imag()) {}
  Number operator+(const Number& o) const { return {re + o.re, im + o.im}; }
  Number operator-(const Number& o) const { return {re - o.re, im - o.im}; }
  Number operator*(const Number& o) const { return {re * o.re - im * o.im, re * o.im + im * o.re}; }
  Real Norm() const { return re * re + im * im; }
  Number Inverse() const {
    const Real scale = 1 / Norm();
    return {re * scale, -im * scale};
  }
  bool IsZero() const { return re == 0 && im == 0; }
  Complex Rounded() const { return {static_cast<double>(re), static_cast<double>(im)}; }
};

// The problem in `Real`, and what the secular equation says at a point.
template <typename Real>
class Secular {
 public:
  using Num = Number<Real>;

  explicit Secular(const SecularProblem& problem)
      : size_(problem.size), rank_(problem.rank), d_(To(problem.d)), u_(To(problem.u)), v_(To(problem.v)) {
    for (int64_t j = 0; j < size_; ++j) {
      for (int64_t a = 0; a < rank_; ++a) {
        for (int64_t b = 0; b < rank_; ++b) products_.push_back(v_[j * rank_ + a] * u_[j * rank_ + b]);
      }
      const auto is_zero = [](const Complex& z) { return z == 0.0; };
      const auto row = [&](absl::Span<const Complex> x) { return x.subspan(j * rank_, rank_); };
      if (std::all_of(row(problem.u).begin(), row(problem.u).end(), is_zero) &&
          std::all_of(row(problem.v).begin(), row(problem.v).end(), is_zero))
        uncoupled_.push_back(j);
    }
  }

  // (log det M)' + Σ_j 1/(μ - d_j) for M = I - vᵀ(diag(d) - μ)⁻¹u: the logarithmic derivative of the
  // characteristic polynomial. False when μ is a d_j.
  bool LogDerivative(const Num& mu, Num& result) {
    if (!Poles(mu)) return false;
    std::vector<Num> slope(rank_ * rank_), m = Matrix(&slope);
    SolveInPlace(m, slope);
    result = Num();
    for (int64_t a = 0; a < rank_; ++a) result = result + slope[a * rank_ + a];
    for (int64_t j = 0; j < size_; ++j) result = result - poles_[j];
    return true;
  }

  // ‖x‖‖y‖/|yᵀx| for x_j = Σ_a u_ja c_a/(d_j - μ) and y likewise of v and e, where M c = 0 and Mᵀe = 0.
  // 1 for a d_j that is coupled to nothing, within `tiny` of μ: an eigenvalue whose eigenvector is an axis.
  double Condition(const Num& mu, double tiny) {
    for (const int64_t j : uncoupled_) {
      if ((d_[j] - mu).Norm() <= tiny * tiny) return 1;
    }
    if (!Poles(mu)) return std::numeric_limits<double>::infinity();
    const std::vector<Num> m = Matrix(nullptr);
    std::vector<Num> transposed(rank_ * rank_);
    for (int64_t a = 0; a < rank_; ++a) {
      for (int64_t b = 0; b < rank_; ++b) transposed[a * rank_ + b] = m[b * rank_ + a];
    }
    const std::vector<Num> c = NullVector(m), e = NullVector(transposed);
    Real xx{0}, yy{0};
    Num yx;
    for (int64_t j = 0; j < size_; ++j) {
      Num x, y;
      for (int64_t a = 0; a < rank_; ++a) {
        x = x + u_[j * rank_ + a] * c[a];
        y = y + v_[j * rank_ + a] * e[a];
      }
      x = x * poles_[j];
      y = y * poles_[j];
      xx += x.Norm();
      yy += y.Norm();
      yx = yx + x * y;
    }
    using std::sqrt;
    return static_cast<double>(Real(sqrt(Real(xx * yy / yx.Norm()))));
  }

 private:
  static std::vector<Num> To(absl::Span<const Complex> values) {
    std::vector<Num> numbers;
    for (const Complex& z : values) numbers.emplace_back(z);
    return numbers;
  }

  bool Poles(const Num& mu) {
    poles_.resize(size_);
    for (int64_t j = 0; j < size_; ++j) {
      const Num distance = d_[j] - mu;
      if (distance.IsZero()) return false;
      poles_[j] = distance.Inverse();
    }
    return true;
  }

  // M, and M' into `slope` [R,R] of zeros unless it is null.
  std::vector<Num> Matrix(std::vector<Num>* slope) const {
    const int64_t entries = rank_ * rank_;
    std::vector<Num> m(entries);
    for (int64_t a = 0; a < rank_; ++a) m[a * rank_ + a].re = 1;
    for (int64_t j = 0; j < size_; ++j) {
      for (int64_t i = 0; i < entries; ++i) {
        const Num term = products_[j * entries + i] * poles_[j];
        m[i] = m[i] - term;
        if (slope != nullptr) (*slope)[i] = (*slope)[i] - term * poles_[j];
      }
    }
    return m;
  }

  // right [R,C] becomes m⁻¹ right; Gauss with partial pivoting. A pivot that vanishes, as it may at a root,
  // becomes tiny.
  void SolveInPlace(std::vector<Num>& m, std::vector<Num>& right) const {
    const int64_t columns = static_cast<int64_t>(right.size()) / rank_;
    for (int64_t p = 0; p < rank_; ++p) {
      int64_t best = p;
      for (int64_t r = p + 1; r < rank_; ++r) {
        if (m[r * rank_ + p].Norm() > m[best * rank_ + p].Norm()) best = r;
      }
      for (int64_t c = 0; c < rank_; ++c) std::swap(m[p * rank_ + c], m[best * rank_ + c]);
      for (int64_t c = 0; c < columns; ++c) std::swap(right[p * columns + c], right[best * columns + c]);
      if (m[p * rank_ + p].IsZero()) m[p * rank_ + p].re = std::numeric_limits<Real>::epsilon();
      const Num inverse = m[p * rank_ + p].Inverse();
      for (int64_t r = 0; r < rank_; ++r) {
        if (r == p) continue;
        const Num factor = m[r * rank_ + p] * inverse;
        // Not of columns before p, which are zero by definition: their rounding times a factor that may be
        // huge would spoil the rest.
        for (int64_t c = p; c < rank_; ++c) m[r * rank_ + c] = m[r * rank_ + c] - factor * m[p * rank_ + c];
        for (int64_t c = 0; c < columns; ++c)
          right[r * columns + c] = right[r * columns + c] - factor * right[p * columns + c];
      }
    }
    for (int64_t p = 0; p < rank_; ++p) {
      const Num inverse = m[p * rank_ + p].Inverse();
      for (int64_t c = 0; c < columns; ++c) right[p * columns + c] = right[p * columns + c] * inverse;
    }
  }

  // Of a matrix that is singular to rounding: one step of inverse iteration.
  std::vector<Num> NullVector(std::vector<Num> m) const {
    std::vector<Num> x(rank_);
    for (int64_t a = 0; a < rank_; ++a) x[a].re = 1 + a;
    if (rank_ > 1) SolveInPlace(m, x);
    Real largest{0};
    for (const Num& entry : x) largest = std::max(largest, Real(entry.Norm()));
    using std::sqrt;
    const Real scale = 1 / Real(sqrt(largest));
    for (Num& entry : x) entry = {entry.re * scale, entry.im * scale};
    return x;
  }

  const int64_t size_, rank_;
  const std::vector<Num> d_, u_, v_;
  std::vector<Num> products_;  // [N,R,R]: v_ja u_jb
  std::vector<int64_t> uncoupled_;
  std::vector<Num> poles_;  // 1/(d_j - μ) of the last μ
};

// ‖diag(d) - u vᵀ‖ in Frobenius' norm, which is at least the largest singular value.
double Norm(const SecularProblem& problem) {
  double sum = 0;
  for (int64_t i = 0; i < problem.size; ++i) {
    for (int64_t j = 0; j < problem.size; ++j) {
      Complex entry = i == j ? problem.d[i] : Complex();
      for (int64_t a = 0; a < problem.rank; ++a)
        entry -= problem.u[i * problem.rank + a] * problem.v[j * problem.rank + a];
      sum += std::norm(entry);
    }
  }
  return std::sqrt(sum);
}

bool IsFinite(absl::Span<const Complex> values) {
  return std::all_of(values.begin(), values.end(),
                     [](const Complex& z) { return std::isfinite(z.real()) && std::isfinite(z.imag()); });
}

template <unsigned bits>
absl::StatusOr<SecularSolution> Solve(const SecularProblem& problem, std::vector<Complex> estimates,
                                      const StopToken* stop) {
  using Num = Number<Float<bits>>;
  Secular<Float<bits>> secular(problem);
  const int64_t size = problem.size;
  const double norm = Norm(problem);
  std::vector<Num> roots;
  // Estimates that coincide would repel each other beyond all bounds.
  for (int64_t k = 0; k < size; ++k) {
    while (std::count(estimates.begin(), estimates.begin() + k, estimates[k]) > 0)
      estimates[k] += norm * std::polar(1e-9, static_cast<double>(k));
    roots.emplace_back(estimates[k]);
  }
  std::vector<double> corrections(size, std::numeric_limits<double>::infinity());
  const auto converged = [&](int64_t k) {
    return corrections[k] <= kConverged * std::abs(roots[k].Rounded());
  };
  for (int sweep = 0, left = 1; sweep < kMostSweeps && left > 0; ++sweep) {
    left = 0;
    for (int64_t k = 0; k < size; ++k) {
      if (converged(k)) continue;
      if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
      Num slope;
      while (!secular.LogDerivative(roots[k], slope)) roots[k].re += norm * kNudge;
      for (int64_t j = 0; j < size; ++j) {
        const Num distance = roots[k] - roots[j];
        if (j != k && !distance.IsZero()) slope = slope - distance.Inverse();
      }
      const Num correction = slope.Inverse();
      roots[k] = roots[k] - correction;
      corrections[k] = std::abs(correction.Rounded());
      left += !converged(k);
    }
  }
  SecularSolution solution;
  solution.bits = bits;
  for (int64_t k = 0; k < size; ++k) {
    solution.values.push_back(roots[k].Rounded());
    solution.condition.push_back(secular.Condition(roots[k], 4 * norm * kNudge));
    // What is rounded to float64 at the end is off by that much in any case.
    const double rounding = std::abs(solution.values[k]) * 0x1p-53;
    solution.error.push_back(std::ldexp(norm, 1 - static_cast<int>(bits)) * solution.condition[k] +
                             corrections[k] + rounding);
  }
  return solution;
}

SecularSolution NotFinite(int64_t size) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  return {std::vector<Complex>(size, {nan, nan}), std::vector<double>(size, nan),
          std::vector<double>(size, nan)};
}

}  // namespace

SecularSolution Conditioned(const SecularProblem& problem, std::vector<Complex> values) {
  if (!IsFinite(values)) return NotFinite(problem.size);
  Secular<double> secular(problem);
  const double rounding = Norm(problem) * std::numeric_limits<double>::epsilon();
  SecularSolution solution;
  for (const Complex& value : values) {
    solution.condition.push_back(secular.Condition(Number<double>(value), 0));
    solution.error.push_back(rounding * solution.condition.back());
  }
  solution.values = std::move(values);
  return solution;
}

absl::StatusOr<SecularSolution> SolveSecular(const SecularProblem& problem, std::vector<Complex> values,
                                             const StopToken* stop) {
  if (!IsFinite(values)) return NotFinite(problem.size);
  if (problem.size <= 64) return Solve<256>(problem, std::move(values), stop);
  if (problem.size <= 128) return Solve<512>(problem, std::move(values), stop);
  if (problem.size <= 256) return Solve<1024>(problem, std::move(values), stop);
  return absl::InvalidArgumentError(
      absl::StrCat("multi-precision eigenvalues of a state of ", problem.size,
                   " dimensions would take too long; up to 256 are solved: use precision double, which says "
                   "how many it leaves unresolved"));
}

}  // namespace eigsvc
