#include "models/tasks/cifar.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/tasks/order.h"
#include "models/tasks/parameters.h"
#include "models/tasks/readers/cifar_batch.h"
#include "models/tasks/readers/data_files.h"
#include "models/tasks/scoring.h"

namespace eigsvc {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 29;
constexpr int kTrainBatches = 5, kTestBatch = 0;

enum class Input { kToken, kGrey, kColour };

// Level v of channel c becomes (v/255 - mean) / deviation, in float32 as torchvision computes it. Grey: the
// paper's numbers; colour: those usual for CIFAR-10.
struct Normalisation {
  float mean, deviation;
};
constexpr Normalisation kGreyLevels = {static_cast<float>(122.6 / 255), static_cast<float>(61.0 / 255)};
constexpr std::array<Normalisation, 3> kColourLevels = {
    Normalisation{0.4914f, 0.247f}, Normalisation{0.4822f, 0.243f}, Normalisation{0.4465f, 0.261f}};

std::array<float, 256> LevelTable(const Normalisation& n) {
  std::array<float, 256> table;
  for (int level = 0; level < 256; ++level) {
    table[level] = (static_cast<float>(level) / 255.0f - n.mean) / n.deviation;
  }
  return table;
}

// ITU-R 601-2 luma in 16-bit fixed point, rounded: bit for bit what Pillow's convert("L") gives.
uint8_t Grey(uint8_t red, uint8_t green, uint8_t blue) {
  return static_cast<uint8_t>((19595u * red + 38470u * green + 7471u * blue + 0x8000u) >> 16);
}

// Pictures of a split: kCifarPixels grey levels each, or three times as many interleaved colours.
struct Pictures {
  std::vector<uint8_t> labels, levels;

  void Append(const CifarBatch& batch, int64_t count, bool colour) {
    labels.insert(labels.end(), batch.labels.begin(), batch.labels.begin() + count);
    for (int64_t image = 0; image < count; ++image) {
      const auto* red = reinterpret_cast<const uint8_t*>(batch.pixels.data()) + image * kCifarImageBytes;
      const uint8_t *green = red + kCifarPixels, *blue = green + kCifarPixels;
      for (int64_t i = 0; i < kCifarPixels; ++i) {
        if (colour) {
          levels.insert(levels.end(), {red[i], green[i], blue[i]});
        } else {
          levels.push_back(Grey(red[i], green[i], blue[i]));
        }
      }
    }
  }
};

class Cifar final : public Task {
 public:
  Cifar(Pictures train, Pictures test, Input input, uint64_t seed, Settings settings)
      : train_(std::move(train)),
        test_(std::move(test)),
        train_order_(SeededOrder(seed, Split::kTrain, static_cast<int64_t>(train_.labels.size()))),
        input_(input),
        settings_(std::move(settings)) {
    signature_.vocab_size = input == Input::kToken ? 256 : 0;
    signature_.channels = input == Input::kToken ? 0 : input == Input::kGrey ? 1 : 3;
    signature_.classes = kCifarClasses;
    signature_.per_sequence = true;
    if (input == Input::kGrey) tables_ = {LevelTable(kGreyLevels)};
    if (input == Input::kColour) {
      for (const Normalisation& channel : kColourLevels) tables_.push_back(LevelTable(channel));
    }
  }

  absl::string_view name() const override { return "cifar-10"; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override {
    return static_cast<int64_t>((split == Split::kTrain ? train_ : test_).labels.size());
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    const Pictures& pictures = split == Split::kTrain ? train_ : test_;
    Batch batch;
    batch.rows = count;
    batch.steps = kCifarPixels;
    batch.channels = signature_.channels;
    batch.lengths.assign(count, kCifarPixels);
    const int64_t width = kCifarPixels * std::max<int64_t>(1, signature_.channels);
    for (int64_t index = first; index < first + count; ++index) {
      const int64_t picture = split == Split::kTrain ? train_order_[index] : index;
      batch.targets.push_back(pictures.labels[picture]);
      const uint8_t* levels = pictures.levels.data() + picture * width;
      if (input_ == Input::kToken) {
        batch.tokens.insert(batch.tokens.end(), levels, levels + width);
      } else {
        for (int64_t i = 0; i < width; ++i) batch.values.push_back(tables_[i % tables_.size()][levels[i]]);
      }
    }
    return batch;
  }

  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return ClassificationScore(predictions);
  }

 private:
  const Pictures train_, test_;
  const std::vector<int64_t> train_order_;
  const Input input_;
  const Settings settings_;
  TaskSignature signature_;
  std::vector<std::array<float, 256>> tables_;  // by channel
};

// "data_batch_3" or "data_batch_3.bin" -> 3, "test_batch" -> kTestBatch, anything else -> -1.
int BatchNumber(absl::string_view name) {
  absl::string_view base = BaseNameOf(name);
  absl::ConsumeSuffix(&base, ".bin");
  if (base == "test_batch") return kTestBatch;
  const bool train = absl::ConsumePrefix(&base, "data_batch_") && base.size() == 1;
  return train && base[0] >= '1' && base[0] < '1' + kTrainBatches ? base[0] - '0' : -1;
}

// By batch number. A file that --data names itself is a test split, whatever its name.
absl::StatusOr<std::map<int, CifarBatch>> ReadBatches(const TaskRequest& request) {
  std::map<int, CifarBatch> batches;
  bool other_name = false;
  const auto wanted = [&](absl::string_view name) {
    const int number = BatchNumber(name);
    return number == kTestBatch ? request.test : number > 0 && request.train;
  };
  const auto visit = [&](absl::string_view name, ByteStream& stream) -> absl::Status {
    int number = BatchNumber(name);
    other_name |= number < 0;
    number = std::max(number, kTestBatch);
    if (batches.count(number) > 0) return RepeatedDataFile("cifar-10", stream.name());
    EIGSVC_ASSIGN_OR_RETURN(const std::string bytes, ReadAll(stream, kMaxFileBytes));
    EIGSVC_ASSIGN_OR_RETURN(batches[number], ParseCifarBatch(bytes, stream.name()));
    return absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(VisitDataFiles(request.data_path, wanted, visit, request.stop));
  if (request.test && batches.count(kTestBatch) == 0) {
    return MissingDataFile("cifar-10", request.data_path, "test_batch.bin or test_batch");
  }
  for (int number = 1; request.train && !other_name && number <= kTrainBatches; ++number) {
    if (batches.count(number) > 0) continue;
    return MissingDataFile("cifar-10", request.data_path,
                           absl::StrCat("data_batch_", number, ".bin or data_batch_", number));
  }
  return batches;
}

absl::StatusOr<std::shared_ptr<const Task>> MakeCifar(const TaskRequest& request) {
  ParameterReader reader("cifar-10", request.parameters);
  const bool tokens = reader.Choice("input", {"token", "scalar"}) == "token";
  const bool colour = reader.Bool("colour", false);
  const double train_share = reader.Real("train_share", 1, 0, 1);
  if (tokens && colour) {
    reader.Fail("colour has three numbers a pixel, which are no token; set input=scalar");
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(const auto batches, ReadBatches(request));
  int64_t left = 0;  // train pictures still to be taken
  for (const auto& [number, batch] : batches)
    left += number == kTestBatch ? 0 : static_cast<int64_t>(batch.labels.size());
  left = static_cast<int64_t>(train_share * static_cast<double>(left));
  Pictures train, test;
  for (const auto& [number, batch] : batches) {
    const int64_t size = static_cast<int64_t>(batch.labels.size());
    if (number == kTestBatch) {
      test.Append(batch, size, colour);
    } else {
      train.Append(batch, std::min(size, left), colour);
      left -= std::min(size, left);
    }
  }
  return std::make_shared<const Cifar>(std::move(train), std::move(test),
                                       tokens   ? Input::kToken
                                       : colour ? Input::kColour
                                                : Input::kGrey,
                                       request.seed, reader.resolved());
}

}  // namespace

TaskEntry CifarEntry() {
  return {"cifar-10",
          "which of ten things does a picture of 32 x 32 pixels show? Pixel by pixel (Krizhevsky 2009)",
          "accuracy",
          {{"input", "text", "token", "token: grey levels 0 to 255; scalar: the same, less 122.6, over 61"},
           {"colour", "boolean", "false", "three numbers a pixel, normalised by channel; with input=scalar"},
           {"train_share", "real", "1",
            "the first pictures of the train batches, as a share, are the train split; the "
            "paper leaves a tenth out, drawn at random"}},
          /*presets=*/{},
          {TaskData::Need::kRequired,
           {"cifar-10", "cifar10", "cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-binary.tar.gz",
            "cifar-10-python.tar.gz"},
           {{"cifar-10-binary.tar.gz", "md5 c32a1d4ab5d03f1284b67883e8d87530",
             "the binary version, www.cs.toronto.edu/~kriz; 170 MB"},
            {"cifar-10-python.tar.gz", "md5 c58f30108f718f92721af3b95e74349a",
             "or the Python version, from the same place"}},
           "one of the two .tar.gz as it is, or a directory that holds data_batch_1 to data_batch_5 and "
           "test_batch, all "
           "with or all without .bin; or one such file, a test split"},
          MakeCifar};
}

}  // namespace eigsvc
