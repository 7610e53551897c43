// Page tokens and the cutting of messages.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/utf8.h"
#include "server/jobs/page_token.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

TEST(PageTokensTest, GiveTheirPositionBack) {
  const PageTokens tokens;
  for (const std::string position : {"", "7", "a name with \xC3\xA9 and spaces"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string read, tokens.Read("list", tokens.Make("list", position)));
    EXPECT_EQ(read, position);
  }
}

TEST(PageTokensTest, RefuseWhatTheyDidNotGive) {
  const PageTokens tokens, other;
  std::string flipped = tokens.Make("list", "7");
  flipped[3] = flipped[3] == 'A' ? 'B' : 'A';
  for (const std::string& token :
       {std::string("x"), std::string("!!"), std::string(10'000, 'A'), flipped,
        tokens.Make("another list", "7"), other.Make("list", "7"), tokens.Make("list", "7") + " "}) {
    EXPECT_THAT(tokens.Read("list", token),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")));
  }
}

TEST(PageSizeTest, IsBounded) {
  EXPECT_EQ(PageSize(0).value(), 50);
  EXPECT_EQ(PageSize(1000).value(), 1000);
  EXPECT_THAT(PageSize(-1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
  EXPECT_THAT(PageSize(1001), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1001")));
}

TEST(ToUtf8Test, LeavesGoodTextAlone) {
  for (const std::string text : {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"}) {
    EXPECT_EQ(ToUtf8(text, 100), text);
  }
}

TEST(ToUtf8Test, CutsBetweenCharacters) {
  EXPECT_EQ(ToUtf8("abcdef", 6), "abcdef");
  EXPECT_EQ(ToUtf8("abcdefg", 6), "abc...");
  EXPECT_EQ(ToUtf8("ab\xE2\x82\xAC\xE2\x82\xAC", 7),
            "ab...");  // the first euro sign would fit without the dots
  EXPECT_EQ(ToUtf8("abc", 2), "");
}

TEST(ToUtf8Test, ReplacesIllFormedBytes) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(ToUtf8("a\xFFz", 100), "a" + mark + "z");
  EXPECT_EQ(ToUtf8("\xE2\x82", 100), mark + mark);                        // cut short
  EXPECT_EQ(ToUtf8("\xC0\xAF", 100), mark + mark);                        // overlong
  EXPECT_EQ(ToUtf8("\xED\xA0\x80", 100), mark + mark + mark);             // surrogate
  EXPECT_EQ(ToUtf8("\xF4\x90\x80\x80", 100), mark + mark + mark + mark);  // beyond U+10FFFF
}

}  // namespace
}  // namespace eigsvc
