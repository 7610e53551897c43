// Tokenizers against golden ids, Hugging Face's own library, and llama2.c's rule written out plainly
// (oracle.py).
#include "models/tasks/tokenizers/tokenizer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "models/tasks/readers/byte_stream.h"
#include "models/tasks/tokenizers/byte_pair.h"
#include "models/tasks/tokenizers/encode_text.h"
#include "models/tasks/tokenizers/text_splitter.h"
#include "models/tasks/tokenizers/word_vocabulary.h"
#include "tests/tasks/archives.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::SharedPath;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::WriteFile;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ReadBytes(const std::string& path) {
  std::stringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}
std::string TempPath(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "tokenizer_", name);
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<int32_t> ids;
  EXPECT_TRUE(tokenizer.NewSession().value()->Encode(text, &ids).ok());
  return ids;
}

std::shared_ptr<const Tokenizer> Gpt2() {
  return ReadGpt2Tokenizer(ReadBytes(SharedPath("data/tokenizers/gpt2/vocab.json")),
                           ReadBytes(SharedPath("data/tokenizers/gpt2/merges.txt")), "gpt2")
      .value();
}
std::shared_ptr<const Tokenizer> NeoX() {
  return ReadTokenizerJson(ReadBytes(SharedPath("data/tokenizers/gpt-neox/tokenizer.json")), "tokenizer.json")
      .value();
}

// Lines of WikiText, then text made to be awkward: every kind of white space, letters and numbers beyond
// ASCII, marks that combine, contractions, added tokens, emoji, and characters drawn at random.
std::vector<std::string> Texts() {
  std::vector<std::string> texts = {
      "",
      " ",
      "\n",
      " \n",
      "  \n \n",
      "a  b   c\t\td\r\n e",
      "I'm you're he'd we'll THEY'RE it's 'sup 'S",
      "x\xc2\xa0y \xe3\x80\x80z\xe2\x80\xa8w\xc2\x85v\x0bu\x0ct",
      "caf\xc3\xa9 cafe\xcc\x81 \xe1\xb8\x8d\xcc\x87 d\xcc\xa3\xcc\x87",
      "\xe6\xbc\xa2\xe5\xad\x97\xe4\xbb\xae\xe5\x90\x8d \xe3\x81\x8b\xe3\x81\x8c \xef\xbd\xb1",
      "\xe2\x85\xa7 \xc2\xbd \xe2\x91\xa0 \xd9\xa3\xd9\xa4 12345 3.14159 1,000",
      "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 "
      "\xf0\x9f\x87\xa8\xf0\x9f\x87\xad!",
      "a<|endoftext|>b <|endoftext|><|padding|> <|endoftext",
      "                          end",
      " @-@ @,@ <unk> = = = \" Hello , world ! \"",
      "def f(x):\n    return x  # \xe2\x86\x92 y\n\n\n",
      std::string(300, 'a'),
      "\xef\xbb\xbf"
      "bom",
      "\xe2\x80\x8bzero\xe2\x80\x8bwidth"};
  std::ifstream wiki(SharedPath("data/wikitext-2/wiki.valid.tokens"));
  std::string line;
  for (int i = 0; i < 700 && std::getline(wiki, line); ++i) texts.push_back(line + "\n");
  std::mt19937_64 random(4);
  const std::pair<uint32_t, uint32_t> ranges[] = {{0x20, 0x7E},     {0x20, 0x2F},     {0xA0, 0x24F},
                                                  {0x300, 0x36F},   {0x370, 0x5FF},   {0x900, 0xDFF},
                                                  {0x2000, 0x206F}, {0x2150, 0x218B}, {0x3040, 0x30FF},
                                                  {0x4E00, 0x4FFF}, {0xAC00, 0xAD00}, {0x1F300, 0x1F6FF}};
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (uint64_t length = random() % 40; length > 0; --length) {
      const auto [low, high] = ranges[random() % std::size(ranges)];
      const uint32_t point = low + static_cast<uint32_t>(random() % (high - low + 1));
      if (point < 0x80) {
        text.push_back(static_cast<char>(point));
      } else if (point < 0x800) {
        text.append({static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))});
      } else if (point < 0x10000) {
        text.append({static_cast<char>(0xE0 | point >> 12), static_cast<char>(0x80 | (point >> 6 & 0x3F)),
                     static_cast<char>(0x80 | (point & 0x3F))});
      } else {
        text.append({static_cast<char>(0xF0 | point >> 18), static_cast<char>(0x80 | (point >> 12 & 0x3F)),
                     static_cast<char>(0x80 | (point >> 6 & 0x3F)),
                     static_cast<char>(0x80 | (point & 0x3F))});
      }
    }
    texts.push_back(text);
  }
  return texts;
}

void ExpectOraclesIds(const Tokenizer& tokenizer, const json& spec, const std::vector<std::string>& texts) {
  const std::string in = TempPath("spec.json"), out = TempPath("ids.json");
  std::ofstream(in) << json{{"tokenizer", spec}, {"texts", texts}};
  const std::string command =
      absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' '", testing::SourcePath("tests/tasks/oracle.py"),
                   "' tokenize ", in, " ", out);
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const json expected = json::parse(std::ifstream(out));
  ASSERT_EQ(expected.size(), texts.size());
  int64_t ids = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(Encode(tokenizer, texts[i]), expected[i].get<std::vector<int32_t>>())
        << "text " << i << ": " << texts[i];
    ids += static_cast<int64_t>(expected[i].size());
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(ids, 1000);
}

TEST(TokenizerTest, Gpt2GivesTheGoldenIds) {
  EIGSVC_REQUIRE_SHARED();
  const auto tokenizer = Gpt2();
  EXPECT_EQ(tokenizer->vocab_size(), 50257);
  const json golden = json::parse(ReadBytes(SharedPath("data/tokenizers/gpt2/golden.json")));
  ASSERT_GT(golden["cases"].size(), 10u);
  for (const json& item : golden["cases"]) {
    EXPECT_EQ(Encode(*tokenizer, item["text"].get<std::string>()), item["ids"].get<std::vector<int32_t>>())
        << item["text"];
  }
}

TEST(TokenizerTest, Gpt2AgreesWithHuggingFace) {
  EIGSVC_REQUIRE_SHARED();
  ExpectOraclesIds(*Gpt2(),
                   {{"vocab", SharedPath("data/tokenizers/gpt2/vocab.json")},
                    {"merges", SharedPath("data/tokenizers/gpt2/merges.txt")}},
                   Texts());
}

TEST(TokenizerTest, GptNeoxsJsonAgreesWithHuggingFace) {
  EIGSVC_REQUIRE_SHARED();
  const auto tokenizer = NeoX();
  EXPECT_EQ(tokenizer->vocab_size(), 50277);
  ExpectOraclesIds(*tokenizer, {{"json", SharedPath("data/tokenizers/gpt-neox/tokenizer.json")}}, Texts());
  // A token that was added is one id wherever it stands.
  EXPECT_THAT(Encode(*tokenizer, "<|endoftext|>"), ElementsAre(0));
}

// The other forms of the file: Llama 3's split, digits one by one and whole words first; Llama 2's characters
// with bytes for what the vocabulary lacks; unknown characters joined.
TEST(TokenizerTest, OtherFormsOfTokenizerJsonAgreeWithHuggingFace) {
  EIGSVC_REQUIRE_SHARED();
  json vocabulary = json::parse(ReadBytes(SharedPath("data/tokenizers/gpt2/vocab.json")));
  json merges = json::array();
  for (const absl::string_view line :
       absl::StrSplit(ReadBytes(SharedPath("data/tokenizers/gpt2/merges.txt")), '\n')) {
    if (!line.empty() && line[0] != '#') merges.push_back(std::string(line));
  }
  const json llama3 = {
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 50256},
         {"content", "<|endoftext|>"},
         {"single_word", false},
         {"lstrip", false},
         {"rstrip", false},
         {"normalized", false},
         {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern",
            {{"Regex",
              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
           {"behavior", "Isolated"},
           {"invert", false}},
          {{"type", "Digits"}, {"individual_digits", true}},
          {{"type", "ByteLevel"},
           {"add_prefix_space", false},
           {"trim_offsets", true},
           {"use_regex", false}}}}}},
      {"post_processor", nullptr},
      {"decoder", nullptr},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", true},
        {"vocab", vocabulary},
        {"merges", merges}}}};
  const std::string first = WriteFile(TempPath("llama3.json"), llama3.dump());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto a, ReadTokenizerJson(ReadBytes(first), "llama3.json"));
  ExpectOraclesIds(*a, {{"json", first}}, Texts());

  json pieces = {{"<unk>", 0}}, joins = json::array();
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    pieces[name] = pieces.size();
  }
  for (const char* piece : {"\xe2\x96\x81",
                            "t",
                            "h",
                            "e",
                            "a",
                            "n",
                            "d",
                            "i",
                            "s",
                            "o",
                            "th",
                            "the",
                            "\xe2\x96\x81the",
                            "an",
                            "and",
                            "\xe2\x96\x81"
                            "and",
                            "is",
                            "\xe2\x96\x81"
                            "a",
                            "he",
                            "\xc3\xa9"}) {
    pieces[piece] = pieces.size();
  }
  for (const char* merge : {"t h", "th e", "\xe2\x96\x81 the", "a n", "an d", "\xe2\x96\x81 and", "i s",
                            "\xe2\x96\x81 a", "h e"}) {
    joins.push_back(json(absl::StrSplit(merge, ' ').operator std::vector<std::string>()));
  }
  for (const bool fallback : {true, false}) {
    const json llama2 = {
        {"version", "1.0"},
        {"added_tokens", json::array()},
        {"normalizer",
         {{"type", "Sequence"},
          {"normalizers",
           {{{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}},
            {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}}}}},
        {"pre_tokenizer", nullptr},
        {"post_processor", nullptr},
        {"decoder", nullptr},
        {"model",
         {{"type", "BPE"},
          {"unk_token", "<unk>"},
          {"fuse_unk", true},
          {"byte_fallback", fallback},
          {"vocab", pieces},
          {"merges", joins}}}};
    const std::string path = WriteFile(TempPath("llama2.json"), llama2.dump());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto b, ReadTokenizerJson(ReadBytes(path), "llama2.json"));
    ExpectOraclesIds(*b, {{"json", path}}, Texts());
  }
}

TEST(TokenizerTest, SentencePieceGivesLlama2csIds) {
  EIGSVC_REQUIRE_SHARED();
  const std::string path = SharedPath("data/checkpoints/stories260K/tok512.bin");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto tokenizer, ReadSentencePieceBin(ReadBytes(path), "tok512.bin"));
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  const json golden = json::parse(ReadBytes(SharedPath("data/checkpoints/stories260K/golden.json")));
  std::vector<int32_t> ids = golden["encode_ids"];
  ids.erase(ids.begin());  // the beginning of a text
  EXPECT_EQ(Encode(*tokenizer, golden["encode_text"].get<std::string>()), ids);
  std::vector<std::string> texts = Texts();
  texts.erase(
      std::remove_if(texts.begin(), texts.end(), [](const std::string& text) { return text.size() > 600; }),
      texts.end());
  ExpectOraclesIds(*tokenizer, {{"llama2c", path}}, texts);
}

TEST(TokenizerTest, WordsOfWikiTextAreCountedAsPublished) {
  EIGSVC_REQUIRE_SHARED();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto stream,
                              OpenFileStream(SharedPath("data/wikitext-2/wiki.valid.tokens"), nullptr));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const WordVocabulary words, WordVocabulary::Of(*stream, nullptr));
  const auto tokenizer = words.tokenizer();
  const std::pair<const char*, int64_t> published[] = {{"valid", 217646}, {"test", 245569}};
  for (const auto& [part, count] : published) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        auto text,
        OpenFileStream(SharedPath(absl::StrCat("data/wikitext-2/wiki.", part, ".tokens")), nullptr));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const EncodedText encoded,
                                EncodeText(*text, *tokenizer, {words.end_of_line()}, 2, nullptr));
    EXPECT_EQ(static_cast<int64_t>(encoded.ids.size()), count);
    EXPECT_EQ(encoded.words, count);
  }
  // By falling frequency; the text's own words come back.
  std::vector<int64_t> counts(words.words().size());
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto text,
                              OpenFileStream(SharedPath("data/wikitext-2/wiki.valid.tokens"), nullptr));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const EncodedText encoded,
                              EncodeText(*text, *tokenizer, {words.end_of_line()}, 1, nullptr));
  for (const int32_t id : encoded.ids) ++counts[id];
  EXPECT_TRUE(std::is_sorted(counts.rbegin(), counts.rend()));
  EXPECT_EQ(words.words()[0], "the");
  EXPECT_EQ(counts[words.end_of_line()], 3760);
}

TEST(TokenizerTest, IdsDoNotDependOnThreads) {
  EIGSVC_REQUIRE_SHARED();
  const auto tokenizer = Gpt2();
  std::string text;
  for (int i = 0; i < 4; ++i) text += ReadBytes(SharedPath("data/wikitext-2/wiki.test.tokens"));
  const std::string path = WriteFile(TempPath("long.txt"), text);
  std::vector<int32_t> one;
  for (const int threads : {1, 2, 5}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto stream, OpenFileStream(path, nullptr));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const EncodedText encoded,
                                EncodeText(*stream, *tokenizer, {}, threads, nullptr));
    EXPECT_EQ(encoded.words, 4 * 245569);
    if (threads == 1) one = encoded.ids;
    EXPECT_TRUE(encoded.ids == one) << threads;
  }
  // Lines of white space are left out, as in Hugging Face's copy of the text.
  std::vector<int32_t> plain;
  const auto session = tokenizer->NewSession().value();
  for (const absl::string_view line :
       absl::StrSplit(ReadBytes(SharedPath("data/wikitext-2/wiki.test.tokens")), '\n')) {
    if (line.find_first_not_of(' ') == absl::string_view::npos) continue;
    EIGSVC_ASSERT_OK(session->Encode(absl::StrCat(line, "\n"), &plain));
  }
  EXPECT_EQ(plain.size() * 4, one.size());
  EXPECT_TRUE(std::equal(plain.begin(), plain.end(), one.begin()));
}

TEST(TokenizerTest, LongPiecesDoNotTakeQuadraticTime) {
  EIGSVC_REQUIRE_SHARED();
  const auto start = absl::Now();
  const std::vector<int32_t> ids = Encode(*Gpt2(), std::string(1 << 20, 'a'));
  EXPECT_GT(ids.size(), 1000u);
  EXPECT_LT(absl::Now() - start, absl::Seconds(60));  // seconds where quadratic would be hours
}

TEST(TokenizerTest, TextThatCannotBeEncodedIsNamed) {
  EIGSVC_REQUIRE_SHARED();
  const auto tokenizer = Gpt2();
  std::vector<int32_t> ids;
  EXPECT_THAT(tokenizer->NewSession().value()->Encode("ab\xff", &ids),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("byte 2: 0xff is no UTF-8")));
  const std::string path = WriteFile(TempPath("bad.txt"), "one\ntwo\nth\xc3(ree\n");
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto stream, OpenFileStream(path, nullptr));
  EXPECT_THAT(
      EncodeText(*stream, *tokenizer, {}, 2, nullptr),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr(absl::StrCat(path, ", line 3: byte 2: 0xc3"))));
  // Whole words: neither what the vocabulary is made of nor what is encoded with it.
  const auto line_three =
      StatusIs(StatusCode::kInvalidArgument, HasSubstr(absl::StrCat(path, ", line 3: byte 2: 0xc3")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto words, OpenFileStream(path, nullptr));
  EXPECT_THAT(WordVocabulary::Of(*words, nullptr), line_three);
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto good,
                              OpenFileStream(WriteFile(TempPath("good.txt"), "one two\n"), nullptr));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const WordVocabulary vocabulary, WordVocabulary::Of(*good, nullptr));
  EIGSVC_ASSERT_OK_AND_ASSIGN(words, OpenFileStream(path, nullptr));
  EXPECT_THAT(EncodeText(*words, *vocabulary.tokenizer(), {vocabulary.end_of_line()}, 2, nullptr),
              line_three);
  StopToken stop;
  stop.Cancel();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto again, OpenFileStream(path, nullptr));
  EXPECT_THAT(EncodeText(*again, *tokenizer, {}, 2, &stop),
              StatusIs(StatusCode::kCancelled, HasSubstr("cancelled")));
}

TEST(TokenizerTest, FilesThatAreNotReadAreNamed) {
  const auto model = [](const std::string& members) {
    return absl::StrCat(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"])",
                        members, "}}");
  };
  EIGSVC_EXPECT_OK(ReadTokenizerJson(model(""), "t"));
  struct Case {
    std::string json;
    StatusCode code;
    const char* message;
  };
  const StatusCode invalid = StatusCode::kInvalidArgument, refused = StatusCode::kFailedPrecondition;
  const std::string plain = R"("model": {"vocab": {"a": 0}, "merges": []})";
  const Case cases[] = {
      {"{\"model\": ", invalid, "no JSON at byte"},
      {"[]", invalid, "no JSON object"},
      {R"({"model": 1e999})", invalid, "no JSON"},
      {"{}", invalid, "no vocabulary"},
      {std::string(1000, '['), invalid, "deeper than 32"},
      {R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})", refused, "model \"WordPiece\" is not read"},
      {R"({"model": {"vocab": {"a": 0, "b": 0}}})", invalid, "no id of its own"},
      {R"({"model": {"vocab": {"a": -1}}})", invalid, "no id of its own"},
      {R"({"model": {"vocab": {"a": 1.5}}})", invalid, "no id of its own"},
      {R"({"model": {"vocab": {"a": 0}, "merges": ["a c"]}})", invalid, "merge 0: \"a\" and \"c\""},
      {R"({"model": {"vocab": {"a": 0}, "merges": [7]}})", invalid, "merge 0"},
      {model(R"(, "dropout": 0.1)"), refused, "dropout"},
      {model(R"(, "end_of_word_suffix": "</w>")"), refused, "end_of_word_suffix"},
      {model(R"(, "unk_token": "<unk>")"), invalid, "unk_token \"<unk>\""},
      {absl::StrCat(R"({"normalizer": {"type": "BertNormalizer"}, )", plain, "}"), refused,
       "normalizer \"BertNormalizer\""},
      {absl::StrCat(R"({"pre_tokenizer": {"type": "Metaspace"}, )", plain, "}"), refused,
       "pre_tokenizer \"Metaspace\""},
      {absl::StrCat(
           R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}, )",
           plain, "}"),
       invalid, "no regular expression"},
      {absl::StrCat(
           R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Contiguous"}, )",
           plain, "}"),
       refused, "Contiguous"},
      {absl::StrCat(R"({"added_tokens": [{"id": 3, "content": "<mask>", "lstrip": true}], )", plain, "}"),
       refused, "<mask>"},
      {absl::StrCat(R"({"added_tokens": [{"content": "x"}], )", plain, "}"), invalid, "has no id"},
  };
  for (const Case& bad : cases) {
    EXPECT_THAT(ReadTokenizerJson(bad.json, "tokenizer.json"),
                StatusIs(bad.code, AllOf(HasSubstr("tokenizer.json"), HasSubstr(bad.message))))
        << bad.json;
  }
  EXPECT_THAT(ReadGpt2Tokenizer(R"({"a": 0, "b": 1, "ab": 2})", "#version: 0.2\na b\na  b\n", "gpt2"),
              StatusIs(invalid, HasSubstr("gpt2, line 3 of the merges")));
  EXPECT_THAT(ReadGpt2Tokenizer(R"({"a": 0})", "a b\n", "gpt2"),
              StatusIs(invalid, HasSubstr("line 1 of the merges")));
  EXPECT_THAT(ReadGpt2Tokenizer(R"({"a": 0})", "", "gpt2"), StatusIs(invalid, HasSubstr("has no merges")));
  // What the vocabulary cannot spell.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto small,
                              ReadGpt2Tokenizer(R"({"a": 0, "b": 1, "ab": 2})", "a b\n", "gpt2"));
  std::vector<int32_t> ids;
  EXPECT_THAT(small->NewSession().value()->Encode("abc", &ids),
              StatusIs(invalid, HasSubstr("cannot spell \"abc\"")));
  EXPECT_THAT(Encode(*small, "abba"), ElementsAre(2, 1, 0));
}

TEST(TokenizerTest, DamagedPiecesAreNamed) {
  EIGSVC_REQUIRE_SHARED();
  const std::string bytes = ReadBytes(SharedPath("data/checkpoints/stories260K/tok512.bin"));
  // Cut between two pieces, the file is one of fewer pieces; anywhere else it is damaged.
  std::set<size_t> between;
  for (size_t at = 4; at < bytes.size();) {
    between.insert(at);
    int32_t length = 0;
    std::memcpy(&length, bytes.data() + at + 4, sizeof(length));
    at += 8 + static_cast<size_t>(length);
  }
  ASSERT_EQ(between.size(), 512u);
  for (size_t cut = 0; cut < bytes.size(); cut += 7) {
    const auto read = ReadSentencePieceBin(bytes.substr(0, cut), "tok");
    if (between.count(cut) == 0) {
      EXPECT_THAT(read, StatusIs(StatusCode::kDataLoss, HasSubstr("tok"))) << cut;
    }
  }
  EXPECT_THAT(ReadSentencePieceBin(bytes.substr(0, bytes.size() - 1), "tok"),
              StatusIs(StatusCode::kDataLoss, HasSubstr("in the middle of a piece")));
  std::string long_piece = bytes;
  long_piece[8] = long_piece[11] = '\x7f';
  EXPECT_THAT(ReadSentencePieceBin(long_piece, "tok"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("piece 0 has length")));
}

// A pattern that backtracks for ever is given up, and says so.
TEST(TextSplitterTest, APatternThatNeverEndsIsGivenUp) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TextSplitter splitter,
                              TextSplitter::Make("(a*)*(a*)*(a*)*b", TextSplitter::Keep::kBoth));
  TextSplitter::Session session(splitter);
  std::vector<absl::string_view> pieces;
  const absl::Time start = absl::Now();
  EXPECT_THAT(session.Split(std::string(5000, 'a'), &pieces),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("backtracks")));
  EXPECT_LT(absl::Now() - start, absl::Seconds(60));
}

TEST(TextSplitterTest, KeepsMatchesBetweensOrBoth) {
  const auto split = [](TextSplitter::Keep keep) {
    const TextSplitter splitter = TextSplitter::Make("[0-9]+", keep).value();
    TextSplitter::Session session(splitter);
    std::vector<absl::string_view> pieces;
    EXPECT_TRUE(session.Split("ab12c3", &pieces).ok());
    return std::vector<std::string>(pieces.begin(), pieces.end());
  };
  EXPECT_THAT(split(TextSplitter::Keep::kBoth), ElementsAre("ab", "12", "c", "3"));
  EXPECT_THAT(split(TextSplitter::Keep::kMatches), ElementsAre("12", "3"));
  EXPECT_THAT(split(TextSplitter::Keep::kBetween), ElementsAre("ab", "c"));
}

// Ranks decide, the leftmost of equals first: against the definition, by scanning.
TEST(BytePairTest, MergesAsTheDefinitionSays) {
  std::mt19937_64 random(9);
  for (int round = 0; round < 300; ++round) {
    BytePairMerges merges;
    std::map<std::pair<int32_t, int32_t>, std::pair<int32_t, int32_t>> table;
    for (int i = 0; i < 30; ++i) {
      const auto left = static_cast<int32_t>(random() % 8), right = static_cast<int32_t>(random() % 8);
      const auto rank = static_cast<int32_t>(random() % 6), merged = static_cast<int32_t>(random() % 8);
      merges.Add(left, right, rank, merged);
      table[{left, right}] = {rank, merged};
    }
    std::vector<int32_t> ids(random() % 40);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 8);
    std::vector<int32_t> expected = ids;
    while (true) {
      int best = -1, best_rank = 1 << 30;
      for (size_t i = 0; i + 1 < expected.size(); ++i) {
        const auto found = table.find({expected[i], expected[i + 1]});
        if (found != table.end() && found->second.first < best_rank) {
          best = static_cast<int>(i);
          best_rank = found->second.first;
        }
      }
      if (best < 0) break;
      expected[best] = table[{expected[best], expected[best + 1]}].second;
      expected.erase(expected.begin() + best + 1);
    }
    merges.Apply(&ids);
    ASSERT_EQ(ids, expected) << "round " << round;
  }
}

}  // namespace
}  // namespace eigsvc
