#include "models/tasks/listops_expression.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace eigsvc {
namespace {

constexpr uint8_t kEnd = 0, kFirstDigit = 1, kFirstOperator = 11;
constexpr double kOperatorShare = 0.25;

// The value of an operator's arguments, of which there is at least one. Sorts them.
int Apply(uint8_t op, absl::Span<int> arguments) {
  switch (kListOpsSymbols[op][2]) {
    case 'A':  // [MAX
      return *std::max_element(arguments.begin(), arguments.end());
    case 'I':  // [MIN
      return *std::min_element(arguments.begin(), arguments.end());
    case 'M': {  // [SM
      int sum = 0;
      for (const int argument : arguments) sum += argument;
      return sum % 10;
    }
    default: {  // [MED
      std::sort(arguments.begin(), arguments.end());
      const size_t half = arguments.size() / 2;
      return arguments.size() % 2 == 1 ? arguments[half] : (arguments[half - 1] + arguments[half]) / 2;
    }
  }
}

// -1: not a symbol.
int CodeOf(absl::string_view word) {
  if (word == "]") return kEnd;
  const auto found = std::find(kListOpsSymbols.begin(), kListOpsSymbols.end(), word);
  return found == kListOpsSymbols.end() ? -1 : static_cast<int>(found - kListOpsSymbols.begin());
}

// Grows one tree, depth first.
class Grower {
 public:
  Grower(Random& random, const ListOpsLimits& limits, std::vector<uint8_t>& symbols)
      : random_(random), limits_(limits), symbols_(symbols) {}

  // The node's value; -1 once the tree is too long.
  int Grow(int64_t depth) {
    if (static_cast<int64_t>(symbols_.size()) >= limits_.max_length) return -1;
    if (depth >= limits_.max_depth || random_.Unit() >= kOperatorShare) {
      const int digit = static_cast<int>(random_.Below(10));
      symbols_.push_back(static_cast<uint8_t>(kFirstDigit + digit));
      return digit;
    }
    const uint8_t op =
        static_cast<uint8_t>(kFirstOperator + random_.Below(kListOpsSymbols.size() - kFirstOperator));
    std::vector<int> arguments(2 + random_.Below(static_cast<uint64_t>(limits_.max_args - 1)));
    symbols_.push_back(op);
    for (int& argument : arguments) {
      argument = Grow(depth + 1);
      if (argument < 0) return -1;
    }
    symbols_.push_back(kEnd);
    return Apply(op, absl::MakeSpan(arguments));
  }

 private:
  Random& random_;
  const ListOpsLimits& limits_;
  std::vector<uint8_t>& symbols_;
};

}  // namespace

absl::StatusOr<ListOpsExpression> ParseListOps(absl::string_view text) {
  ListOpsExpression expression;
  struct Open {
    uint8_t op;
    size_t first;  // of its arguments in `values`
  };
  std::vector<Open> open;
  std::vector<int> values;
  int64_t parentheses = 0;
  const auto wrong = [&](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat("symbol ", expression.symbols.size() + 1, ": ", parts...));
  };
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (word == "(" || word == ")") {
      parentheses += word == "(" ? 1 : -1;
      if (parentheses < 0) return wrong("a ')' that nothing opened");
      continue;
    }
    const int code = CodeOf(word);
    if (code < 0) {
      return wrong("\"", word.substr(0, 24), "\" is none of [MAX [MIN [MED [SM ] 0 to 9 and parentheses");
    }
    if (open.empty() && !values.empty()) return wrong("\"", word, "\" after the end of the expression");
    if (code >= kFirstOperator) {
      open.push_back({static_cast<uint8_t>(code), values.size()});
    } else if (code >= kFirstDigit) {
      values.push_back(code - kFirstDigit);
    } else {
      if (open.empty()) return wrong("a ']' that nothing opened");
      const Open done = open.back();
      open.pop_back();
      if (values.size() == done.first) return wrong("an operator without arguments");
      const int value = Apply(done.op, absl::MakeSpan(values).subspan(done.first));
      values.resize(done.first);
      values.push_back(value);
    }
    expression.symbols.push_back(static_cast<uint8_t>(code));
  }
  if (!open.empty()) return wrong(open.size(), " operators were never closed");
  if (parentheses != 0) return wrong(parentheses, " parentheses were never closed");
  if (values.empty()) return wrong("the expression is empty");
  expression.value = values.front();
  return expression;
}

int64_t ListOpsLimits::LongestPossible() const {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;
  int64_t length = 1;
  for (int64_t depth = 1; depth < max_depth && length < kMost / max_args; ++depth)
    length = 2 + max_args * length;
  return length;
}

bool DrawListOps(Random& random, const ListOpsLimits& limits, ListOpsExpression* expression) {
  expression->symbols.clear();
  expression->value = Grower(random, limits, expression->symbols).Grow(1);
  const int64_t length = static_cast<int64_t>(expression->symbols.size());
  return expression->value >= 0 && length > limits.min_length && length < limits.max_length;
}

}  // namespace eigsvc
