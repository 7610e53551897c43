// WeightPlan: every tensor of a model: its canonical name, its key and shape in a checkpoint, and how it is
// drawn when fresh. One plan serves loading, initialising and saving, so the three cannot disagree.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/base/random.h"

namespace eigsvc {

// One element of a fresh tensor.
using Draw = std::function<double(Random&)>;

Draw DrawConstant(double value);
Draw DrawNormal(double deviation);
Draw DrawUniform(double low, double high);
// torch.nn.Linear's and Conv1d's own default, kaiming_uniform(a = √5): uniform within ±1/√fan_in.
Draw DrawLinear(int64_t fan_in);

struct WeightSpec {
  int layer = kOuter;          // or kOuter: embedding, final norm, head
  std::string name;            // canonical, as the family's forward pass asks for it
  std::string key;             // in the checkpoint
  std::vector<int64_t> shape;  // as the forward pass uses it
  Draw draw;
  bool transposed = false;    // the checkpoint stores the transpose (GPT-2's Conv1D)
  bool keep_float32 = false;  // at least float32 whatever the model's dtype (decay rates, step sizes)
  // Canonical name of the outer tensor that this one is (tied embeddings), which the plan lists earlier. The
  // key may be absent from a checkpoint and is not written.
  std::string tied_to;

  static constexpr int kOuter = -1;
  std::vector<int64_t> StoredShape() const;
};

using WeightPlan = std::vector<WeightSpec>;

// `pattern` may hold any number of '*', each standing for any text.
bool MatchesPattern(const std::string& text, const std::string& pattern);

}  // namespace eigsvc
