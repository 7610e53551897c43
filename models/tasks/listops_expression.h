// ListOps expressions (Nangia and Bowman 2018, arXiv 1804.06028; Long Range Arena, arXiv 2011.04006):
// [MAX 2 9 [MIN 4 7 ] 0 ] = 9. MED is the median, the mean of the two middle values truncated; SM the sum
// modulo 10. Thread-safe: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/random.h"

namespace eigsvc {

// The 15 symbols in the order of their codes; X stands for ']', as Long Range Arena's tokeniser writes it.
inline constexpr std::array<absl::string_view, 15> kListOpsSymbols = {
    "X", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MAX", "[MED", "[MIN", "[SM"};

struct ListOpsExpression {
  std::vector<uint8_t> symbols;  // codes, no parentheses; their number is the expression's length
  int value = 0;                 // in [0, 9]
};

// "( ( ( [MAX 2 ) 9 ) ] )" or the same without parentheses. INVALID_ARGUMENT says what is wrong and at which
// symbol: an unknown word, an operator without end or arguments, unbalanced parentheses, more than one tree.
absl::StatusOr<ListOpsExpression> ParseListOps(absl::string_view text);

struct ListOpsLimits {
  int64_t max_depth = 10, max_args = 10;
  int64_t min_length = 500, max_length = 2000;  // both exclusive

  // Of the longest expression these depths and arguments allow; saturates.
  int64_t LongestPossible() const;
};

// Long Range Arena's generator: a node above max_depth is a uniform digit with probability 3/4, else a
// uniform operator over 2 to max_args nodes. False (and `expression` undefined) when the tree drawn is not
// within the lengths.
bool DrawListOps(Random& random, const ListOpsLimits& limits, ListOpsExpression* expression);

}  // namespace eigsvc
