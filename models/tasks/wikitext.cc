#include "models/tasks/wikitext.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "models/tasks/order.h"
#include "models/tasks/parameters.h"
#include "models/tasks/readers/data_files.h"
#include "models/tasks/scoring.h"
#include "models/tasks/token_blocks.h"
#include "models/tasks/tokenizers/encode_text.h"
#include "models/tasks/tokenizers/word_vocabulary.h"

namespace eigsvc {
namespace {

constexpr int64_t kMaxWikiTextBlock = int64_t{1} << 20, kMaxGroup = int64_t{1} << 20;
constexpr int kMaxThreads = 8;

struct Part {
  TokenBlocks blocks;
  double tokens_per_word = 0;
};

class WikiText final : public Task {
 public:
  WikiText(absl::string_view name, Part train, Part test, int64_t vocab_size, int64_t mean_over_batches_of,
           uint64_t seed, Settings settings)
      : name_(name),
        train_(std::move(train)),
        test_(std::move(test)),
        train_order_(SeededOrder(seed, Split::kTrain, train_.blocks.size())),
        mean_over_batches_of_(mean_over_batches_of),
        settings_(std::move(settings)) {
    signature_.vocab_size = signature_.classes = signature_.data_vocab_size = vocab_size;
  }

  absl::string_view name() const override { return name_; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override { return Of(split).blocks.size(); }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    std::vector<int64_t> indices(count);
    if (split == Split::kTrain) {
      std::copy_n(train_order_.begin() + first, count, indices.begin());
    } else {
      std::iota(indices.begin(), indices.end(), first);
    }
    return Of(split).blocks.Draw(indices);
  }

  Score ComputeScore(Split split, absl::Span<const Prediction> predictions) const override {
    return PerplexityScore(predictions, {mean_over_batches_of_, Of(split).tokens_per_word});
  }

 private:
  const Part& Of(Split split) const { return split == Split::kTrain ? train_ : test_; }

  const std::string name_;
  const Part train_, test_;
  const std::vector<int64_t> train_order_;
  const int64_t mean_over_batches_of_;
  const Settings settings_;
  TaskSignature signature_;
};

// ---- The files.

// "wikitext-103/wiki.test.tokens" or ".raw" -> "test"; anything else -> "".
absl::string_view PartOf(absl::string_view name) {
  absl::string_view part = BaseNameOf(name);
  const bool text = absl::ConsumePrefix(&part, "wiki.") &&
                    (absl::ConsumeSuffix(&part, ".tokens") || absl::ConsumeSuffix(&part, ".raw"));
  return text && (part == "train" || part == "valid" || part == "test") ? part : "";
}

struct Source {
  absl::string_view task;
  const TaskRequest& request;
};

// Calls `visit` with the one text of `part`. NOT_FOUND when there is none.
absl::Status VisitPart(const Source& source, absl::string_view part,
                       const std::function<absl::Status(ByteStream&)>& visit) {
  bool found = false;
  const auto wanted = [&](absl::string_view name) { return PartOf(name) == part; };
  const auto visit_text = [&](absl::string_view name, ByteStream& stream) {
    if (!wanted(name)) return absl::OkStatus();  // a file that --data named itself
    if (found) return RepeatedDataFile(source.task, stream.name());
    found = true;
    return visit(stream);
  };
  EIGSVC_RETURN_IF_ERROR(VisitDataFiles(source.request.data_path, wanted, visit_text, source.request.stop));
  if (found) return absl::OkStatus();
  return MissingDataFile(source.task, source.request.data_path,
                         absl::StrCat("wiki.", part, ".tokens or wiki.", part, ".raw"));
}

struct TokenizerFile {
  std::string name;  // as errors name it
  std::string contents;
};

// The files below `folder` (empty: anywhere) that `kind` names, by the name it gives them.
absl::StatusOr<std::map<std::string, TokenizerFile>> ReadTokenizerFiles(
    const Source& source, const std::string& folder,
    const std::function<std::string(absl::string_view)>& kind) {
  std::map<std::string, TokenizerFile> files;
  const auto wanted = [&](absl::string_view name) {
    const bool inside = folder.empty() || name == folder || absl::StartsWith(name, absl::StrCat(folder, "/"));
    return inside && !kind(BaseNameOf(name)).empty();
  };
  const auto visit = [&](absl::string_view name, ByteStream& stream) -> absl::Status {
    if (!wanted(name)) return absl::OkStatus();
    TokenizerFile& file = files[kind(BaseNameOf(name))];
    if (!file.name.empty()) return RepeatedDataFile(source.task, stream.name());
    file.name = stream.name();
    EIGSVC_ASSIGN_OR_RETURN(file.contents, ReadAll(stream, kMaxTokenizerBytes));
    return absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(VisitDataFiles(source.request.data_path, wanted, visit, source.request.stop));
  return files;
}

// ---- The tokenizers.

struct Chosen {
  std::shared_ptr<const Tokenizer> tokenizer;
  LineRule rule;
  std::string sha256;  // of the files it was made from
};

std::string Digest(absl::string_view bytes) {
  return Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
}

absl::StatusOr<Chosen> Gpt2(const Source& source, const std::string& folder) {
  EIGSVC_ASSIGN_OR_RETURN(const auto files, ReadTokenizerFiles(source, folder, [](absl::string_view name) {
                            if (name == "vocab.json" || name == "encoder.json") return "vocab.json";
                            return name == "merges.txt" || name == "vocab.bpe" ? "merges.txt" : "";
                          }));
  if (files.size() != 2) {
    return MissingDataFile(
        source.task, source.request.data_path,
        "vocab.json with merges.txt (GPT-2's tokenizer); put them beside the text, or choose "
        "another with --param tokenizer=word");
  }
  const std::string &vocabulary = files.at("vocab.json").contents, &merges = files.at("merges.txt").contents;
  EIGSVC_ASSIGN_OR_RETURN(auto tokenizer, ReadGpt2Tokenizer(vocabulary, merges, files.at("vocab.json").name));
  return Chosen{std::move(tokenizer), {}, Digest(absl::StrCat(Digest(vocabulary), Digest(merges)))};
}

absl::StatusOr<Chosen> OneFile(const Source& source, const std::string& folder, absl::string_view what,
                               const std::function<bool(absl::string_view)>& is_it,
                               absl::StatusOr<std::shared_ptr<const Tokenizer>> (*read)(absl::string_view,
                                                                                        absl::string_view)) {
  EIGSVC_ASSIGN_OR_RETURN(const auto files, ReadTokenizerFiles(source, folder, [&](absl::string_view name) {
                            return is_it(name) ? std::string(what) : std::string();
                          }));
  if (files.empty()) return MissingDataFile(source.task, source.request.data_path, what);
  const TokenizerFile& file = files.begin()->second;
  EIGSVC_ASSIGN_OR_RETURN(auto tokenizer, read(file.contents, file.name));
  return Chosen{std::move(tokenizer), {}, Digest(file.contents)};
}

absl::StatusOr<Chosen> Words(const Source& source, absl::string_view train_part) {
  std::optional<WordVocabulary> vocabulary;
  const auto visit = [&](ByteStream& stream) -> absl::Status {
    EIGSVC_ASSIGN_OR_RETURN(vocabulary, WordVocabulary::Of(stream, source.request.stop));
    return absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(VisitPart(source, train_part, visit));
  std::string words;
  for (const std::string& word : vocabulary->words()) absl::StrAppend(&words, word, "\n");
  return Chosen{vocabulary->tokenizer(), {vocabulary->end_of_line()}, Digest(words)};
}

absl::StatusOr<Chosen> ChooseTokenizer(const Source& source, const std::string& kind,
                                       const std::string& folder, absl::string_view train_part) {
  if (kind == "gpt2") return Gpt2(source, folder);
  if (kind == "word") return Words(source, train_part);
  if (kind == "huggingface") {
    return OneFile(
        source, folder, "tokenizer.json", [](absl::string_view name) { return name == "tokenizer.json"; },
        ReadTokenizerJson);
  }
  return OneFile(
      source, folder, "tok*.bin",
      [](absl::string_view name) { return absl::StartsWith(name, "tok") && absl::EndsWith(name, ".bin"); },
      ReadSentencePieceBin);
}

absl::StatusOr<Part> EncodePart(const Source& source, absl::string_view part, const Chosen& chosen,
                                int64_t block_length) {
  Part encoded;
  const auto visit = [&](ByteStream& stream) -> absl::Status {
    const int threads =
        static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, unsigned{kMaxThreads}));
    EIGSVC_ASSIGN_OR_RETURN(EncodedText text,
                            EncodeText(stream, *chosen.tokenizer, chosen.rule, threads, source.request.stop));
    if (text.ids.size() < 2) {
      return absl::InvalidArgumentError(absl::StrCat(stream.name(), " has fewer than two tokens"));
    }
    encoded.tokens_per_word = static_cast<double>(text.ids.size()) / static_cast<double>(text.words);
    TokenSequences sequences;
    sequences.push_back(std::move(text.ids));
    encoded.blocks = TokenBlocks(std::move(sequences), block_length);
    return absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(VisitPart(source, part, visit));
  return encoded;
}

absl::StatusOr<std::shared_ptr<const Task>> MakeWikiText(absl::string_view name, const TaskRequest& request) {
  ParameterReader reader(name, request.parameters);
  const std::string kind = reader.Choice("tokenizer", {"gpt2", "word", "huggingface", "sentencepiece"});
  const std::string folder = reader.Text("tokenizer_folder", "");
  const std::string recorded = reader.Text("tokenizer_sha256", "");
  const int64_t block_length = reader.Int("block_length", 1024, 2, kMaxWikiTextBlock);
  const std::string train_part = reader.Choice("train_part", {"train", "valid", "test"});
  const std::string test_part = reader.Choice("test_part", {"test", "valid", "train"});
  const int64_t mean_over = reader.Int("mean_over_batches_of", 0, 0, kMaxGroup);
  if (request.train && request.test && train_part == test_part) {
    reader.Fail(absl::StrCat("train_part and test_part are both ", train_part,
                             ": the test would be on what was trained on"));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());

  const Source source{name, request};
  EIGSVC_ASSIGN_OR_RETURN(const Chosen chosen, ChooseTokenizer(source, kind, folder, train_part));
  if (!recorded.empty() && recorded != chosen.sha256) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": the ", kind, " tokenizer in ", request.data_path,
                     " is not the recorded one (SHA-256 ", chosen.sha256, ", recorded ", recorded,
                     "), so that the ids would mean other words; give the same files, or "
                     "pass --param tokenizer_sha256= to go on"));
  }
  reader.resolved().Set("tokenizer_sha256", absl::string_view(chosen.sha256));
  Part train, test;
  if (request.train) {
    EIGSVC_ASSIGN_OR_RETURN(train, EncodePart(source, train_part, chosen, block_length));
  }
  if (request.test) {
    EIGSVC_ASSIGN_OR_RETURN(test, EncodePart(source, test_part, chosen, block_length));
  }
  return std::make_shared<const WikiText>(name, std::move(train), std::move(test),
                                          chosen.tokenizer->vocab_size(), mean_over, request.seed,
                                          reader.resolved());
}

TaskEntry Entry(absl::string_view name, absl::string_view summary, std::vector<absl::string_view> names,
                std::vector<TaskData::File> files,
                absl::StatusOr<std::shared_ptr<const Task>> (*make)(const TaskRequest&)) {
  files.insert(
      files.end(),
      {{"vocab.json", "sha256 196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        "for tokenizer=gpt2: GPT-2's vocabulary, also called encoder.json"},
       {"merges.txt", "sha256 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        "for tokenizer=gpt2: its merges, also called vocab.bpe"},
       {"tokenizer.json", "", "for tokenizer=huggingface: any byte-pair tokenizer of that library"},
       {"tok*.bin", "", "for tokenizer=sentencepiece: a tokenizer in llama2.c's form, such as tok512.bin"}});
  return {
      name,
      summary,
      "perplexity",
      {{"tokenizer", "text", "gpt2", "gpt2, word, huggingface or sentencepiece"},
       {"tokenizer_folder", "text", "", "where its files lie in the data's directory; empty: anywhere in it"},
       {"tokenizer_sha256", "text", "",
        "what its files must hash to; recorded with a trained model. Empty: anything"},
       {"block_length", "integer", "1024",
        "tokens a block; blocks do not overlap, the first token is not scored"},
       {"train_part", "text", "train",
        "the text of the train split: train, valid or test; also makes the words of "
        "tokenizer=word"},
       {"test_part", "text", "test", "the text of the test split: test, valid or train"},
       {"mean_over_batches_of", "integer", "0",
        "0: perplexity of the mean over all tokens; n: the mean of the perplexities of n blocks at a time "
        "(arXiv 2510.09379: 8)"}},
      /*presets=*/{},
      {TaskData::Need::kRequired, std::move(names), std::move(files),
       "a directory that holds wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, or .raw in place "
       "of "
       ".tokens, of which only the parts in use are read, and the tokenizer's files, here or in a folder "
       "below; or "
       "for tokenizer=word the .zip as it is"},
      make};
}

}  // namespace

TaskEntry WikiText103Entry() {
  return Entry("wikitext-103", "predict each next token of 28,475 Wikipedia articles (Merity et al. 2016)",
               {"wikitext-103", "wikitext-103-raw"},
               {{"wikitext-103-raw-v1.zip", "sha1 86f2375181b9247049d9c9205fad2b71b274b568",
                 "the text as it was, .raw: what tokenizers are used on; 192 MB"},
                {"wikitext-103-v1.zip", "md5 9ddaacaf6af0710eda8c456decff7832",
                 "rare words replaced by <unk>, .tokens: what word models are used on; 190 MB"}},
               [](const TaskRequest& request) { return MakeWikiText("wikitext-103", request); });
}

TaskEntry WikiText2Entry() {
  return Entry(
      "wikitext-2", "the same of 600 articles, with the same valid and test articles (Merity et al. 2016)",
      {"wikitext-2", "wikitext-2-raw"},
      {{"wikitext-2-raw-v1.zip", "sha1 3b6993c138fc61c95f7fffd900fef68f8411371d", "the text as it was, .raw"},
       {"wikitext-2-v1.zip", "md5 542ccefacc6c27f945fb54453812b3cd",
        "rare words replaced by <unk>, .tokens; its words are fewer than WikiText-103's"}},
      [](const TaskRequest& request) { return MakeWikiText("wikitext-2", request); });
}

}  // namespace eigsvc
