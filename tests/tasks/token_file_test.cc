#include "models/tasks/readers/token_file.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A .npy file of the format's description: magic, version, header length, header, data.
std::string Npy(int version, const std::string& header, const std::string& data) {
  std::string bytes(kNpyMagic);
  bytes += static_cast<char>(version);
  bytes += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) bytes += static_cast<char>(header.size() >> (8 * i));
  return bytes + header + data;
}
std::string Npy(const std::string& descr, const std::string& shape, const std::string& data) {
  return Npy(1,
             absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': ", shape, ", }    \n"),
             data);
}
std::string Bytes(std::initializer_list<int> bytes) { return std::string(bytes.begin(), bytes.end()); }

TokenSequences Tokens(const std::string& bytes) {
  auto tokens = ParseTokens(bytes, "ids");
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  return tokens.ok() ? *tokens : TokenSequences{};
}

TEST(TokenFileTest, ReadsTextAndJson) {
  EXPECT_EQ(Tokens("1 22\n 333\t4\n"), (TokenSequences{{1, 22, 333, 4}}));
  EXPECT_EQ(Tokens(" [1, 22 ,\n333,4]\n"), (TokenSequences{{1, 22, 333, 4}}));
  EXPECT_EQ(Tokens("[[1,2],[],[3]]"), (TokenSequences{{1, 2}, {}, {3}}));
  EXPECT_EQ(Tokens("[]"), (TokenSequences{{}}));
  EXPECT_EQ(Tokens("0 2147483647"), (TokenSequences{{0, 2147483647}}));
}

TEST(TokenFileTest, ReadsEveryIntegerTypeOfNpy) {
  EXPECT_EQ(Tokens(Npy("|u1", "(3,)", Bytes({1, 2, 255}))), (TokenSequences{{1, 2, 255}}));
  EXPECT_EQ(Tokens(Npy("|i1", "(2,)", Bytes({1, 127}))), (TokenSequences{{1, 127}}));
  EXPECT_EQ(Tokens(Npy("<u2", "(1, 2)", Bytes({1, 2, 255, 255}))), (TokenSequences{{513, 65535}}));
  EXPECT_EQ(Tokens(Npy("<i4", "(2, 1)", Bytes({1, 2, 0, 0, 5, 0, 0, 1}))),
            (TokenSequences{{513}, {16777221}}));
  EXPECT_EQ(Tokens(Npy("<i8", "(1,)", Bytes({7, 1, 0, 0, 0, 0, 0, 0}))), (TokenSequences{{263}}));
  EXPECT_EQ(Tokens(Npy("<i4", "(0,)", "")), TokenSequences{});
  for (int version : {1, 2, 3}) {
    EXPECT_EQ(Tokens(Npy(version, "{'shape': (2,), 'fortran_order': False, 'descr': '|u1'}", Bytes({8, 9}))),
              (TokenSequences{{8, 9}}));
  }
}

TEST(TokenFileTest, TextMistakesAreNamedByLineAndColumn) {
  const std::pair<const char*, const char*> cases[] = {
      {"1 2\n3 -4", "ids, line 2, column 3 (byte 6): expected a token id"},
      {"1 2.5", "line 1, column 3"},
      {"1, 2", "a JSON list starts with '['"},
      {"1 2147483648", "above 2147483647"},
      {"1 99999999999999999999999999", "above 2147483647"},
      {"hello", "line 1, column 1 (byte 0): expected a token id, a non-negative integer; found \"hello\""},
      {"[1, 2", "expected ',' or ']'"},
      {"[1, 2]]", "expected the end of the file; found \"]\""},
      {"[1,\n2.0]", "line 2, column 1"},
      {"[1, \"2\"]", "column 5"},
      {"[1, [2]]", "expected a token id"},
      {"[[1], 2]", "every entry must be a list"},
      {"[[[1]]]", "expected a token id"},
      {"[1,]", "expected a token id"},
      {"[1e3]", "expected a token id"},
      {"{\"ids\": [1]}", "expected a token id"},
      {"", "is empty"},
      {" \n ", "is empty"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_THAT(ParseTokens(text, "ids"), StatusIs(StatusCode::kInvalidArgument, HasSubstr(message))) << text;
  }
}

TEST(TokenFileTest, NpyMistakesAreNamed) {
  struct Case {
    std::string bytes;
    StatusCode code;
    const char* message;
  };
  const std::string good = Npy("<i4", "(2,)", std::string(8, '\0'));
  const std::vector<Case> cases = {
      {Npy("<f4", "(1,)", "1234"), StatusCode::kInvalidArgument, "dtype '<f4'"},
      {Npy(">i4", "(1,)", "1234"), StatusCode::kInvalidArgument, "astype('<i4')"},
      {Npy("|O", "(1,)", "12345678"), StatusCode::kInvalidArgument, "dtype '|O'"},
      {Npy("|b1", "(1,)", "1"), StatusCode::kInvalidArgument, "dtype '|b1'"},
      {Npy("<i4", "(1, 1, 1)", "1234"), StatusCode::kInvalidArgument, "3 dimensions"},
      {Npy("<i4", "()", "1234"), StatusCode::kInvalidArgument, "0 dimensions"},
      {Npy("<i4", "(3,)", "1234"), StatusCode::kDataLoss, "shape [1, 3] of '<i4' does not fill the 4 bytes"},
      {Npy("<i4", "(1,)", "12345"), StatusCode::kDataLoss, "does not fill"},
      {Npy("<i8", "(4611686018427387904, 4611686018427387904)", "1234"), StatusCode::kDataLoss,
       "does not fill"},
      {Npy("<i4", "(99999999999999999999,)", "1234"), StatusCode::kInvalidArgument, "expected a size"},
      {Npy("|u1", "(9223372036854775807, 0)", "1"), StatusCode::kDataLoss, "does not fill"},
      {Npy("<i4", "(-1,)", "1234"), StatusCode::kInvalidArgument, "expected a size"},
      {Npy("<i2", "(2,)", Bytes({1, 0, 255, 255})), StatusCode::kInvalidArgument, "element [0, 1] at byte"},
      {Npy("<u4", "(1,)", Bytes({0, 0, 0, 128})), StatusCode::kInvalidArgument, "above 2147483647"},
      {Npy("<i8", "(1,)", Bytes({0, 0, 0, 0, 0, 0, 0, 128})), StatusCode::kInvalidArgument, "is negative"},
      {Npy(1, "{'descr': '<i4', 'fortran_order': True, 'shape': (1, 1)}", "1234"),
       StatusCode::kInvalidArgument, "Fortran order"},
      {Npy(1, "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", "1234"),
       StatusCode::kInvalidArgument, "structured"},
      {Npy(1, "{'descr': '<i4', 'shape': (1,)}", "1234"), StatusCode::kInvalidArgument, "missing"},
      {Npy(1, "{'descr': '<i4', 'descr': '<i4', 'shape': (1,)}", "1234"), StatusCode::kInvalidArgument,
       "repeated key 'descr'"},
      {Npy(1, "{'descr': __import__('os').system('true')}", "1234"), StatusCode::kInvalidArgument,
       "quoted string"},
      {Npy(1, "", ""), StatusCode::kInvalidArgument, "expected '{'"},
      {Npy(4, "{}", ""), StatusCode::kInvalidArgument, ".npy version 4"},
      {good.substr(0, 7), StatusCode::kDataLoss, "7 bytes"},
      {good.substr(0, 30), StatusCode::kDataLoss, "its header claims"},
  };
  for (const Case& bad : cases) {
    EXPECT_THAT(ParseTokens(bad.bytes, "ids.npy"),
                StatusIs(bad.code, AllOf(HasSubstr("ids.npy"), HasSubstr(bad.message))));
  }
  // No prefix of a good file is read as something else or read beyond its end (the sanitizers watch).
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(ParseTokens(good.substr(0, size), "ids.npy").ok()) << size;
}

TEST(TokenFileTest, AgreesWithNumpysOwnWriter) {
  // The reference is Python; a build without that environment still runs the rest. CI refuses skips.
  if (std::string(EIGSVC_ORACLE_PYTHON).empty()) GTEST_SKIP() << "no EIGSVC_ORACLE_PYTHON";
  const std::string path = ::testing::TempDir() + "token_file_numpy.npy";
  const std::string script =
      "import numpy as np; np.save('" + path + "', np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)";
  const std::string command = absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' -c \"", script, "\"");
  if (std::system(absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' -c 'import numpy' 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "the oracle Python has no numpy";
  }
  ASSERT_EQ(std::system(command.c_str()), 0);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TokenSequences tokens, ReadTokenFile(path));
  ASSERT_EQ(tokens.size(), 30u);
  for (int row = 0; row < 30; ++row) {
    ASSERT_EQ(tokens[row].size(), 40u);
    for (int column = 0; column < 40; ++column) EXPECT_EQ(tokens[row][column], (row * 40 + column) * 50);
  }
}

}  // namespace
}  // namespace eigsvc
