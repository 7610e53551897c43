#include "server/store/names.h"

#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::IsOk;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST(NamesTest, BareNamesAreOneTameComponent) {
  for (const std::string& name : {std::string("model.safetensors"), std::string("a"), std::string("A-b_c.9"),
                                  std::string(255, 'x'), std::string("-rf")}) {
    EXPECT_THAT(CheckBareName(name), IsOk()) << name;
  }
  for (const std::string& name :
       {std::string(""), std::string("."), std::string(".."), std::string(".hidden"), std::string("a/b"),
        std::string("/a"), std::string("a\\b"), std::string("a b"), std::string("a\nb"),
        std::string("a\0b", 3), std::string("\xc3\xa9"), std::string("%2e%2e"), std::string("~"),
        std::string("$HOME"), std::string(256, 'x')}) {
    EXPECT_THAT(CheckBareName(name), StatusIs(kInvalid, HasSubstr("at most 255 letters"))) << name;
  }
}

TEST(NamesTest, RelativeNamesKeepToPlainComponentsOfUtf8) {
  for (const std::string& name :
       {std::string("mamba2/model.safetensors"), std::string("a b"), std::string("%2e%2e/x"),
        std::string("..."), std::string("..a/b.."), std::string("caf\xc3\xa9"),
        std::string("\xf0\x9f\x98\x80"), std::string("~root"), std::string(255, 'x')}) {
    EXPECT_THAT(CheckRelativeName(name), IsOk()) << name;
  }
}

TEST(NamesTest, RelativeNamesRefuseEveryOtherForm) {
  const std::vector<std::string> bad = {
      "",
      "/",
      "/etc/passwd",
      "//etc",
      "..",
      "../x",
      "a/..",
      "a/../b",
      "a/../../b",
      "./a",
      "a/./b",
      ".",
      "a//b",
      "a/",
      "a\\..\\b",
      "..\\x",
      "a\nb",
      "a\tb",
      "a\x7f"
      "b",
      std::string("a\0b", 3),
      std::string("..\0/x", 5),
      std::string("\0", 1),
      // Not UTF-8: a stray continuation, overlong '/', '.', NUL, a surrogate, beyond U+10FFFF, cut short,
      // Latin-1.
      "\x80",
      "\xc0\xaf",
      "\xc0\xae\xc0\xae/x",
      "\xe0\x80\xaf",
      "\xc0\x80",
      "\xed\xa0\x80",
      "\xf4\x90\x80\x80",
      "\xe2\x82",
      "caf\xe9",
      "\xff\xfe",
      std::string(256, 'x'),
      "a/" + std::string(256, 'x'),
  };
  for (const std::string& name : bad)
    EXPECT_THAT(CheckRelativeName(name), StatusIs(kInvalid, HasSubstr("name \""))) << name;
  std::string longer;
  for (int i = 0; i < 600; ++i) longer += "a/";
  EXPECT_THAT(CheckRelativeName(longer + "b"), StatusIs(kInvalid, HasSubstr("longer than 1024")));
}

TEST(NamesTest, MessagesEscapeAndCutWhatTheyQuote) {
  const std::string message(CheckRelativeName("a\n\x1b[31m" + std::string(2000, 'x')).message());
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_LT(message.size(), 400u);
}

TEST(NamesTest, DigestsAreLowerCaseHexadecimal) {
  EXPECT_THAT(CheckDigest(std::string(64, 'a')), IsOk());
  for (const std::string& digest :
       {std::string(""), std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'A'),
        std::string(64, 'g'), "../" + std::string(61, 'a'), std::string(64, '\0')}) {
    EXPECT_THAT(CheckDigest(digest), StatusIs(kInvalid, HasSubstr("64 lower-case"))) << digest;
  }
}

}  // namespace
}  // namespace eigsvc
