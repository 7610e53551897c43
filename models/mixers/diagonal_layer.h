// A linear time-invariant layer with one diagonal state that all channels share: h_t = λ∘h_{t-1} + b u_t,
// y_t = Re(c h_t) + d∘u_t. What LRU and S5 parametrise; trained by FFT convolution.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

class DiagonalLayer : public Module {
 public:
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const final;
  std::vector<MixerDescription> Mixers() const final;
  double ExtraOperations() const final;

 protected:
  // `mixer` has static lifetime. `pairs`: each of the `order` states stands for a conjugate pair as well.
  DiagonalLayer(std::string name, absl::string_view mixer, int64_t width, int64_t order, bool pairs)
      : Module(std::move(name)), mixer_(mixer), width_(width), order_(order), pairs_(pairs) {}

  // Complex parts as real and imaginary ones, float64 or the weights' type.
  struct System {
    at::Tensor log_lambda;  // [N] complex128
    at::Tensor b_re, b_im;  // [N,D]
    at::Tensor c_re, c_im;  // [D,N]
    at::Tensor d;           // [D]
    Transition transition;  // as it is reported; detached here
  };
  virtual System MakeSystem(const LayerCall& call) const = 0;

  int64_t width() const { return width_; }
  int64_t order() const { return order_; }
  bool pairs() const { return pairs_; }

 private:
  const absl::string_view mixer_;
  const int64_t width_, order_;
  const bool pairs_;
};

}  // namespace eigsvc
