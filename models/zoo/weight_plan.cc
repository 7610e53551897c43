#include "models/zoo/weight_plan.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace eigsvc {

Draw DrawConstant(double value) {
  return [value](Random&) { return value; };
}

Draw DrawNormal(double deviation) {
  return [deviation](Random& random) { return deviation * random.Normal(); };
}

Draw DrawUniform(double low, double high) {
  return [low, high](Random& random) { return low + (high - low) * random.Unit(); };
}

Draw DrawLinear(int64_t fan_in) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return DrawUniform(-bound, bound);
}

std::vector<int64_t> WeightSpec::StoredShape() const {
  std::vector<int64_t> stored = shape;
  if (transposed) std::reverse(stored.begin(), stored.end());
  return stored;
}

bool MatchesPattern(const std::string& text, const std::string& pattern) {
  const std::vector<std::string> parts = absl::StrSplit(pattern, '*');
  if (parts.size() == 1) return text == pattern;
  const std::string& first = parts.front();
  const std::string& last = parts.back();
  if (text.size() < first.size() + last.size() || !absl::StartsWith(text, first) ||
      !absl::EndsWith(text, last)) {
    return false;
  }
  size_t position = first.size();
  for (size_t i = 1; i + 1 < parts.size(); ++i) {
    const size_t found = text.find(parts[i], position);
    if (found == std::string::npos) return false;
    position = found + parts[i].size();
  }
  return position <= text.size() - last.size();
}

}  // namespace eigsvc
