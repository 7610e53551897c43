#include "models/tasks/readers/cifar_batch.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "models/archive/pickle_machine.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

using Kind = Pickle::Kind;

constexpr int64_t kRecordBytes = 1 + kCifarImageBytes;
constexpr char kPickleProtocol = '\x80';  // what a pickle starts with, and no label

absl::StatusOr<CifarBatch> ParseRecords(absl::string_view bytes, absl::string_view name) {
  if (bytes.size() % kRecordBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has ", bytes.size(), " bytes, no multiple of ", kRecordBytes,
                     " (a label and 3 x 32 x 32 pixels): it is cut short, or not CIFAR-10's binary version"));
  }
  CifarBatch batch;
  for (size_t at = 0; at < bytes.size(); at += kRecordBytes) {
    const auto label = static_cast<uint8_t>(bytes[at]);
    if (label >= kCifarClasses) {
      return absl::InvalidArgumentError(absl::StrCat(name, ", record ", at / kRecordBytes, " (byte ", at,
                                                     "): the label is ", label, "; there are ", kCifarClasses,
                                                     " classes"));
    }
    batch.labels.push_back(label);
    batch.pixels.append(bytes.data() + at + 1, kCifarImageBytes);
  }
  return batch;
}

// The value of `wanted`, text or bytes, in the dict at `ref`; null when there is none.
const Pickle::Ref* Find(const Pickle& pickle, Pickle::Ref ref, absl::string_view wanted) {
  const absl::Span<const Pickle::Ref> items = pickle.items(ref);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const Pickle::Node& key = pickle.node(items[i]);
    if ((key.kind == Kind::kText || key.kind == Kind::kBytes) && key.text == wanted) return &items[i + 1];
  }
  return nullptr;
}

absl::StatusOr<CifarBatch> ParsePickle(absl::string_view bytes, absl::string_view name) {
  const auto invalid = [&](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat(name, parts...));
  };
  absl::StatusOr<Pickle> run =
      Pickle::Run(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
  if (!run.ok()) return Annotate(run.status(), name);
  const Pickle& pickle = *run;
  if (pickle.node(pickle.root()).kind != Kind::kDict) return invalid(" is a pickle, but not of a dict");
  const Pickle::Ref* const data = Find(pickle, pickle.root(), "data");
  const Pickle::Ref* const labels = Find(pickle, pickle.root(), "labels");
  if (data == nullptr || labels == nullptr) {
    return invalid(" has no \"data\" or no \"labels\"; CIFAR-10's batches have both");
  }
  if (pickle.node(*data).kind != Kind::kArray) return invalid(": \"data\" is no numpy array");
  const PickleArray& array = pickle.array(*data);
  if (array.dtype != "u1" || array.fortran_order || array.shape.size() != 2 ||
      array.shape[1] != kCifarImageBytes) {
    return invalid(": \"data\" must be an array [images, ", kCifarImageBytes,
                   "] of uint8 in C order; it is of type \"", array.dtype, "\" and ", array.shape.size(),
                   " dimensions",
                   array.shape.empty() ? "" : absl::StrCat(", the last of ", array.shape.back()));
  }
  if (array.bytes.size() % kCifarImageBytes != 0 ||
      array.shape[0] != static_cast<int64_t>(array.bytes.size() / kCifarImageBytes)) {
    return invalid(": \"data\" claims ", array.shape[0], " images in ", array.bytes.size(), " bytes");
  }
  if (pickle.node(*labels).kind != Kind::kList) return invalid(": \"labels\" is no list");
  CifarBatch batch;
  for (const Pickle::Ref item : pickle.items(*labels)) {
    const Pickle::Node& label = pickle.node(item);
    if (label.kind != Kind::kInt || label.integer < 0 || label.integer >= kCifarClasses) {
      return invalid(": label ", batch.labels.size(), " is no integer from 0 to ", kCifarClasses - 1);
    }
    batch.labels.push_back(static_cast<uint8_t>(label.integer));
  }
  if (array.shape[0] != static_cast<int64_t>(batch.labels.size())) {
    return invalid(" has ", batch.labels.size(), " labels for ", array.shape[0], " images");
  }
  batch.pixels = std::string(array.bytes);
  return batch;
}

}  // namespace

absl::StatusOr<CifarBatch> ParseCifarBatch(absl::string_view bytes, absl::string_view name) {
  const bool pickled = !bytes.empty() && bytes[0] == kPickleProtocol;
  EIGSVC_ASSIGN_OR_RETURN(CifarBatch batch, pickled ? ParsePickle(bytes, name) : ParseRecords(bytes, name));
  if (batch.labels.empty()) return absl::InvalidArgumentError(absl::StrCat(name, " holds no images"));
  return batch;
}

}  // namespace eigsvc
