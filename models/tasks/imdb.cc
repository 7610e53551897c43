#include "models/tasks/imdb.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"
#include "models/tasks/order.h"
#include "models/tasks/parameters.h"
#include "models/tasks/readers/data_files.h"
#include "models/tasks/scoring.h"
#include "models/tasks/token_rows.h"

namespace eigsvc {
namespace {

constexpr int64_t kUnknown = 1, kImdbEos = 2, kFirst = 3;  // 0 <pad>
constexpr int64_t kMaxReviewBytes = int64_t{4} << 20, kMaxAllBytes = int64_t{4} << 30;
constexpr int64_t kMaxTokens = int64_t{1} << 20;

struct Review {
  std::string name, text;
  bool positive = false;
};

// The first `count` characters of UTF-8 text.
absl::string_view FirstCharacters(absl::string_view text, int64_t count) {
  size_t end = 0;
  for (; count > 0 && end < text.size(); --count) end += CharacterBytes(text.substr(end));
  return text.substr(0, end);
}

// Ids of characters, or of bytes.
class Alphabet {
 public:
  // `characters`: distinct, in the order of their ids; empty: bytes.
  static absl::StatusOr<Alphabet> Make(const std::string& characters) {
    Alphabet alphabet;
    for (absl::string_view rest = characters; !rest.empty();) {
      const size_t size = CharacterBytes(rest);
      if (size == 0) return absl::InvalidArgumentError("imdb: vocabulary is not UTF-8");
      if (!alphabet.ids_.emplace(rest.substr(0, size), kFirst + alphabet.ids_.size()).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("imdb: vocabulary holds \"", rest.substr(0, size), "\" twice"));
      }
      rest.remove_prefix(size);
    }
    return alphabet;
  }
  int64_t size() const { return kFirst + (ids_.empty() ? 256 : static_cast<int64_t>(ids_.size())); }

  // At most `count` of them, then <eos>.
  std::vector<int64_t> Encode(absl::string_view text, int64_t count) const {
    std::vector<int64_t> ids;
    if (ids_.empty()) {
      for (const char byte : text.substr(0, count)) ids.push_back(kFirst + static_cast<uint8_t>(byte));
    } else {
      for (text = FirstCharacters(text, count); !text.empty();) {
        const size_t size = CharacterBytes(text);
        const auto found = ids_.find(text.substr(0, size));
        ids.push_back(found == ids_.end() ? kUnknown : found->second);
        text.remove_prefix(size);
      }
    }
    ids.push_back(kImdbEos);
    return ids;
  }

 private:
  absl::flat_hash_map<std::string, int64_t> ids_;
};

class Imdb final : public Task {
 public:
  Imdb(std::vector<Review> train, std::vector<Review> test, Alphabet alphabet, int64_t max_tokens,
       uint64_t seed, Settings settings)
      : train_(std::move(train)),
        test_(std::move(test)),
        train_order_(SeededOrder(seed, Split::kTrain, static_cast<int64_t>(train_.size()))),
        test_order_(SeededOrder(seed, Split::kTest, static_cast<int64_t>(test_.size()))),
        alphabet_(std::move(alphabet)),
        max_tokens_(max_tokens),
        settings_(std::move(settings)) {
    signature_.vocab_size = alphabet_.size();
    signature_.classes = 2;
    signature_.per_sequence = true;
  }

  absl::string_view name() const override { return "imdb"; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override {
    return static_cast<int64_t>(split == Split::kTrain ? train_.size() : test_.size());
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    const std::vector<Review>& reviews = split == Split::kTrain ? train_ : test_;
    const std::vector<int64_t>& order = split == Split::kTrain ? train_order_ : test_order_;
    std::vector<std::vector<int64_t>> rows;
    std::vector<int64_t> targets;
    for (int64_t index = first; index < first + count; ++index) {
      const Review& review = reviews[order[index]];
      rows.push_back(alphabet_.Encode(review.text, max_tokens_ - 1));
      targets.push_back(review.positive ? 1 : 0);
    }
    Batch batch = PadTokens(rows);
    batch.targets = std::move(targets);
    return batch;
  }

  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return ClassificationScore(predictions);
  }

 private:
  const std::vector<Review> train_, test_;
  const std::vector<int64_t> train_order_, test_order_;
  const Alphabet alphabet_;
  const int64_t max_tokens_;
  const Settings settings_;
  TaskSignature signature_;
};

// Where a file of the published layout belongs: "aclImdb/train/pos/0_9.txt".
struct Place {
  bool train = false, positive = false;
};
bool FindPlace(absl::string_view name, Place* place) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() < 3 || !absl::EndsWith(name, ".txt")) return false;
  const absl::string_view split = parts[parts.size() - 3], kind = parts[parts.size() - 2];
  if ((split != "train" && split != "test") || (kind != "pos" && kind != "neg")) return false;
  // macOS's tar puts a "._NAME" beside each file.
  if (absl::StartsWith(parts.back(), ".")) return false;
  *place = {split == "train", kind == "pos"};
  return true;
}

absl::Status ReadReviews(const TaskRequest& request, bool read_train, bool characters,
                         std::vector<Review>* train, std::vector<Review>* test) {
  int64_t bytes = 0;
  const auto wanted = [&](absl::string_view name) {
    Place place;
    return FindPlace(name, &place) && (place.train ? read_train : request.test);
  };
  const auto visit = [&](absl::string_view name, ByteStream& stream) -> absl::Status {
    Place place;
    if (!FindPlace(name, &place)) {  // a file that --data named itself
      return MissingDataFile("imdb", request.data_path, "train/pos, train/neg, test/pos or test/neg");
    }
    Review review{std::string(name), "", place.positive};
    EIGSVC_ASSIGN_OR_RETURN(review.text, ReadAll(stream, kMaxReviewBytes));
    if (review.text.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(stream.name(), " is empty; a review has a text"));
    }
    const absl::Status well_formed = characters ? CheckUtf8(review.text) : absl::OkStatus();
    if (!well_formed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(stream.name(), ", ", well_formed.message(), "; mend the file, or use level=byte"));
    }
    bytes += static_cast<int64_t>(review.text.size());
    if (bytes > kMaxAllBytes) {
      return absl::ResourceExhaustedError(absl::StrCat(request.data_path, " holds more than ", kMaxAllBytes,
                                                       " bytes of reviews; keep fewer"));
    }
    (place.train ? train : test)->push_back(std::move(review));
    return absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(VisitDataFiles(request.data_path, wanted, visit, request.stop));
  // An archive's order is its packer's.
  for (std::vector<Review>* reviews : {train, test}) {
    std::sort(reviews->begin(), reviews->end(),
              [](const Review& a, const Review& b) { return a.name < b.name; });
  }
  // Reviews of one class would make a score that says nothing.
  const auto has_both = [](const std::vector<Review>& reviews) {
    const auto positives =
        std::count_if(reviews.begin(), reviews.end(), [](const Review& r) { return r.positive; });
    return positives > 0 && positives < static_cast<int64_t>(reviews.size());
  };
  if (read_train && !has_both(*train))
    return MissingDataFile("imdb", request.data_path, "train/pos and train/neg");
  if (request.test && !has_both(*test))
    return MissingDataFile("imdb", request.data_path, "test/pos and test/neg");
  return absl::OkStatus();
}

// The characters that occur at least min_freq times in the first max_tokens - 1 of the train reviews, by
// falling frequency, ties by code point: torchtext's rule, which the paper uses.
std::string VocabularyOf(const std::vector<Review>& train, int64_t max_tokens, int64_t min_freq) {
  absl::flat_hash_map<absl::string_view, int64_t> counts;
  for (const Review& review : train) {
    for (absl::string_view rest = FirstCharacters(review.text, max_tokens - 1); !rest.empty();) {
      const size_t size = CharacterBytes(rest);
      ++counts[rest.substr(0, size)];
      rest.remove_prefix(size);
    }
  }
  std::vector<std::pair<int64_t, absl::string_view>> kept;
  for (const auto& [character, count] : counts) {
    if (count >= min_freq) kept.emplace_back(-count, character);
  }
  std::sort(kept.begin(), kept.end());  // UTF-8 sorts like its code points
  std::string vocabulary;
  for (const auto& [count, character] : kept) absl::StrAppend(&vocabulary, character);
  return vocabulary;
}

absl::StatusOr<std::shared_ptr<const Task>> MakeImdb(const TaskRequest& request) {
  ParameterReader reader("imdb", request.parameters);
  const bool characters = reader.Choice("level", {"character", "byte"}) == "character";
  const int64_t max_tokens = reader.Int("max_tokens", 4096, 2, kMaxTokens);
  const int64_t min_freq = reader.Int("min_freq", 15, 1, int64_t{1} << 40);
  std::string vocabulary = reader.Text("vocabulary", "");
  if (!characters) vocabulary.clear();
  EIGSVC_RETURN_IF_ERROR(reader.status());

  std::vector<Review> train, test;
  const bool count_characters = characters && vocabulary.empty();
  EIGSVC_RETURN_IF_ERROR(ReadReviews(request, request.train || count_characters, characters, &train, &test));
  if (count_characters) {
    vocabulary = VocabularyOf(train, max_tokens, min_freq);
    if (vocabulary.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("imdb: no character occurs ", min_freq,
                                                     " times in the train reviews; lower min_freq"));
    }
  }
  if (!request.train) train.clear();
  reader.resolved().Set("vocabulary", absl::string_view(vocabulary));
  EIGSVC_ASSIGN_OR_RETURN(Alphabet alphabet, Alphabet::Make(vocabulary));
  return std::make_shared<const Imdb>(std::move(train), std::move(test), std::move(alphabet), max_tokens,
                                      request.seed, reader.resolved());
}

}  // namespace

TaskEntry ImdbEntry() {
  return {
      "imdb",
      "is a film review positive? Letter by letter (Maas et al. 2011; Long Range Arena's Text task)",
      "accuracy",
      {{"level", "text", "character", "character, or byte"},
       {"max_tokens", "integer", "4096", "tokens of a sequence, <eos> included; longer ones are cut"},
       {"min_freq", "integer", "15", "rarer characters of the train split are <unk>"},
       {"vocabulary", "text", "",
        "the characters in the order of their ids, from 3. Empty: those of the train split, by falling "
        "frequency"}},
      /*presets=*/{},
      {TaskData::Need::kRequired,
       {"imdb", "aclImdb", "aclImdb_v1.tar.gz"},
       {{"aclImdb_v1.tar.gz", "md5 7c2ac02c03563afcf9b574c7e56c153a",
         "Large Movie Review Dataset v1.0, ai.stanford.edu/~amaas/data/sentiment; 84 MB, 50,000 reviews"}},
       "the .tar.gz as it is, or a directory that holds train/pos, train/neg, test/pos and test/neg, each "
       "full of "
       ".txt files of UTF-8"},
      MakeImdb};
}

}  // namespace eigsvc
