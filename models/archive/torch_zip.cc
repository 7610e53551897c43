#include "models/archive/torch_zip.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "models/archive/file_bytes.h"
#include "models/archive/pickle_machine.h"
#include "models/archive/zip_directory.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

using Kind = Pickle::Kind;
using Ref = Pickle::Ref;

// Where training scripts keep the state dict, most telling first.
constexpr absl::string_view kStateDictKeys[] = {"state_dict", "model_state_dict", "model",   "module",
                                                "net",        "network",          "weights", "params",
                                                "model_ema",  "ema_model",        "ema"};
constexpr absl::string_view kConfigKeys[] = {"args",       "hyper_parameters", "hparams",
                                             "model_args", "model_config",     "config"};

constexpr int kMaxSettingsDepth = 16;
constexpr size_t kMaxNesting = 4;  // of dicts around the state dict
constexpr size_t kShownNames = 8;

// Pickled values as JSON. Values may share and contain one another without end, so work is paid for in
// advance: what an entry may cost, and what all entries together may cost, is limited.
class PlainValues {
 public:
  explicit PlainValues(const Pickle& pickle) : pickle_(pickle) {}

  // Absent for what is no plain value: tensors and what holds them, opaque nodes, and what is too large or
  // too deep.
  std::optional<nlohmann::json> Of(Ref ref) {
    entry_ = std::min(kMaxEntryCost, total_);
    total_ -= entry_;
    std::optional<nlohmann::json> value = Convert(ref, 0);
    total_ += entry_;
    return value;
  }

 private:
  bool Pay(size_t cost) {
    if (cost > entry_) return false;
    entry_ -= cost;
    return true;
  }

  std::optional<nlohmann::json> Convert(Ref ref, int depth) {
    const Pickle::Node& node = pickle_.node(ref);
    if (depth > kMaxSettingsDepth || !Pay(kValueCost + node.text.size())) return std::nullopt;
    switch (node.kind) {
      case Kind::kNone:
        return nlohmann::json();
      case Kind::kBool:
        return nlohmann::json(node.integer != 0);
      case Kind::kInt:
        return nlohmann::json(node.integer);
      case Kind::kReal:
        return nlohmann::json(node.real);
      case Kind::kText:
        return nlohmann::json(std::string(node.text));
      case Kind::kTuple:
      case Kind::kList: {
        nlohmann::json list = nlohmann::json::array();
        for (const Ref item : pickle_.items(ref)) {
          std::optional<nlohmann::json> value = Convert(item, depth + 1);
          if (!value) return std::nullopt;
          list.push_back(*std::move(value));
        }
        return list;
      }
      case Kind::kDict: {
        nlohmann::json object = nlohmann::json::object();
        const absl::Span<const Ref> items = pickle_.items(ref);
        for (size_t i = 0; i + 1 < items.size(); i += 2) {
          const Pickle::Node& key = pickle_.node(items[i]);
          if (pickle_.node(items[i + 1]).kind == Kind::kTensor || !Pay(kValueCost + key.text.size()))
            return std::nullopt;
          if (key.kind != Kind::kText) continue;
          if (std::optional<nlohmann::json> value = Convert(items[i + 1], depth + 1)) {
            object[std::string(key.text)] = *std::move(value);
          }
        }
        return object;
      }
      default:
        return std::nullopt;
    }
  }

  static constexpr size_t kValueCost = 64, kMaxEntryCost = size_t{1} << 20;

  const Pickle& pickle_;
  size_t total_ = size_t{16} << 20, entry_ = 0;
};

class TorchZipReader {
 public:
  TorchZipReader(absl::Span<const std::byte> file, ZipDirectory zip, Pickle pickle, std::string folder,
                 std::string name, const StopToken& stop)
      : file_(file),
        zip_(std::move(zip)),
        pickle_(std::move(pickle)),
        folder_(std::move(folder)),
        name_(std::move(name)),
        stop_(stop) {}

  absl::StatusOr<FileContents> Read() {
    nlohmann::json beside = nlohmann::json::object();
    PlainValues plain(pickle_);
    EIGSVC_ASSIGN_OR_RETURN(const std::vector<Ref> path, FindStateDict());
    for (size_t i = 0; i < path.size(); ++i) {
      const absl::Span<const Ref> items = pickle_.items(path[i]);
      for (size_t j = 0; j + 1 < items.size(); j += 2) {
        const Pickle::Node &key = pickle_.node(items[j]), &value = pickle_.node(items[j + 1]);
        if (key.kind != Kind::kText || (i + 1 < path.size() && items[j + 1] == path[i + 1])) continue;
        if (value.kind == Kind::kTensor) {
          if (i + 1 == path.size()) EIGSVC_RETURN_IF_ERROR(AddTensor(key.text, pickle_.tensor(items[j + 1])));
        } else if (std::optional<nlohmann::json> setting = plain.Of(items[j + 1])) {
          beside[std::string(key.text)] = *std::move(setting);
        }
      }
    }
    result_.format = "torch-zip";
    result_.settings = LiftConfig(Settings(std::move(beside), absl::StrCat("the pickle of ", name_)));
    return std::move(result_);
  }

 private:
  bool HoldsTensors(Ref ref) const {
    if (pickle_.node(ref).kind != Kind::kDict) return false;
    const absl::Span<const Ref> items = pickle_.items(ref);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (pickle_.node(items[i]).kind == Kind::kText && pickle_.node(items[i + 1]).kind == Kind::kTensor)
        return true;
    }
    return false;
  }

  // The dict of tensors under a customary name, else any dict under one.
  std::optional<Ref> CustomaryChild(Ref dict, bool holding_tensors) const {
    const absl::Span<const Ref> items = pickle_.items(dict);
    for (const absl::string_view wanted : kStateDictKeys) {
      for (size_t i = 0; i + 1 < items.size(); i += 2) {
        const Pickle::Node &key = pickle_.node(items[i]), &value = pickle_.node(items[i + 1]);
        if (key.kind != Kind::kText || key.text != wanted || value.kind != Kind::kDict) continue;
        if (!holding_tensors || HoldsTensors(items[i + 1])) return items[i + 1];
      }
    }
    return std::nullopt;
  }

  // The only child that is a dict of tensors, whatever its name.
  absl::StatusOr<Ref> OnlyChild(Ref dict) const {
    const absl::Span<const Ref> items = pickle_.items(dict);
    std::vector<std::string> names;
    Ref child = 0;
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (pickle_.node(items[i]).kind != Kind::kText || !HoldsTensors(items[i + 1])) continue;
      if (names.size() < kShownNames) names.push_back(Quoted(pickle_.node(items[i]).text));
      child = items[i + 1];
    }
    if (names.size() == 1) return child;
    if (names.empty())
      return absl::InvalidArgumentError("the file holds no dict of tensors; save model.state_dict()");
    return absl::InvalidArgumentError(
        absl::StrCat("the file holds several dicts of tensors (", absl::StrJoin(names, ", "),
                     ") under names this service does not know; save one model.state_dict()"));
  }

  // From the root to the dict whose values are tensors. A customary name goes before tensors beside it:
  // training checkpoints keep the state of their random generators there.
  absl::StatusOr<std::vector<Ref>> FindStateDict() const {
    std::vector<Ref> path = {pickle_.root()};
    if (pickle_.node(path[0]).kind == Kind::kTensor) {
      return absl::InvalidArgumentError("the file holds one bare tensor; save a dict of named tensors");
    }
    while (true) {
      const Ref dict = path.back();
      if (pickle_.node(dict).kind != Kind::kDict || path.size() > kMaxNesting) {
        return absl::InvalidArgumentError("the file holds no dict of tensors; save model.state_dict()");
      }
      std::optional<Ref> next = CustomaryChild(dict, /*holding_tensors=*/true);
      if (!next && HoldsTensors(dict)) return path;
      if (!next) next = CustomaryChild(dict, /*holding_tensors=*/false);
      if (!next) {
        EIGSVC_ASSIGN_OR_RETURN(next, OnlyChild(dict));
      }
      path.push_back(*next);
    }
  }

  absl::Status AddTensor(absl::string_view key, const PickleTensor& tensor) {
    if (key.size() > 1024)
      return absl::InvalidArgumentError(
          absl::StrCat("tensor name ", Quoted(key), " is longer than 1024 bytes"));
    absl::StatusOr<FileContents::Tensor> view = View(tensor);
    if (!view.ok()) return Annotate(view.status(), absl::StrCat("tensor ", Quoted(key)));
    if (!result_.tensors.emplace(std::string(key), *std::move(view)).second) {
      return absl::DataLossError(absl::StrCat("tensor ", Quoted(key), " occurs twice in the pickle"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<FileContents::Tensor> View(const PickleTensor& tensor) {
    const PickleStorage& storage = pickle_.storages()[tensor.storage];
    EIGSVC_ASSIGN_OR_RETURN(const absl::Span<const std::byte> record, Record(storage.key));
    const int64_t element_bytes = ElementBytes(tensor.type),
                  record_bytes = static_cast<int64_t>(record.size());
    const int64_t unit = storage.type ? element_bytes : 1;
    if (storage.count < 0 || record_bytes % unit != 0 || storage.count != record_bytes / unit) {
      return absl::DataLossError(absl::StrCat("its storage ", Quoted(storage.key), " should have ",
                                              storage.count, " elements of ", unit,
                                              " bytes, but its record has ", record_bytes, " bytes"));
    }
    const int64_t begin = record.data() - file_.data();
    return FileContents::Tensor{tensor.type,   tensor.shape, tensor.strides,
                                tensor.offset, begin,        begin + record_bytes};
  }

  // Each record is read, and its checksum compared, once.
  absl::StatusOr<absl::Span<const std::byte>> Record(absl::string_view key) {
    const auto known = records_.find(key);
    if (known != records_.end()) return known->second;
    absl::StatusOr<absl::Span<const std::byte>> record =
        zip_.Read(absl::StrCat(folder_, "data/", key), stop_);
    if (absl::IsNotFound(record.status())) {
      return absl::DataLossError(
          absl::StrCat("its storage ", Quoted(key), " is not in the file; copy it again"));
    }
    if (record.ok()) records_.emplace(std::string(key), *record);
    return record;
  }

  const absl::Span<const std::byte> file_;
  const ZipDirectory zip_;
  const Pickle pickle_;
  const std::string folder_, name_;
  const StopToken& stop_;
  absl::btree_map<std::string, absl::Span<const std::byte>> records_;
  FileContents result_;
};

// "archive/" of "archive/data.pkl": the one folder all records are in.
absl::StatusOr<std::string> FindFolder(const ZipDirectory& zip) {
  std::vector<std::string> folders;
  for (const auto& [entry, bytes] : zip.entries()) {
    absl::string_view folder = entry;
    if (absl::ConsumeSuffix(&folder, "data.pkl") &&
        (folder.empty() || folder.find('/') == folder.size() - 1)) {
      folders.emplace_back(folder);
    }
  }
  if (folders.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("the zip file has ", folders.size(),
                                                   " data.pkl records, a file of torch.save has one; ",
                                                   "save the weights with torch.save or as safetensors"));
  }
  return folders[0];
}

}  // namespace

Settings LiftConfig(const Settings& settings) {
  nlohmann::json object = settings.object();
  for (const absl::string_view key : kConfigKeys) {
    const auto found = object.find(std::string(key));
    if (found == object.end()) continue;
    nlohmann::json config = *found;
    if (config.is_string()) {
      const absl::StatusOr<Settings> parsed =
          Settings::Parse(config.get_ref<const std::string&>(), settings.origin());
      if (!parsed.ok()) continue;  // an ordinary text that happens to have this name
      config = parsed->object();
    }
    if (!config.is_object()) continue;
    object.erase(found);
    object.update(config);
  }
  return Settings(std::move(object), settings.origin());
}

absl::StatusOr<FileContents> ReadTorchZip(absl::Span<const std::byte> file, const std::string& name,
                                          const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(ZipDirectory zip, ZipDirectory::Parse(file));
  EIGSVC_ASSIGN_OR_RETURN(std::string folder, FindFolder(zip));
  const auto code = zip.entries().lower_bound(absl::StrCat(folder, "code/"));
  if (zip.entries().contains(absl::StrCat(folder, "constants.pkl")) ||
      (code != zip.entries().end() && absl::StartsWith(code->first, absl::StrCat(folder, "code/")))) {
    return absl::FailedPreconditionError(
        "a TorchScript archive holds code, which is not run here; save torch.jit.load(path).state_dict() "
        "with torch.save");
  }
  for (const auto& [entry_name, entry] : zip.entries()) {
    if (!entry.stored) return zip.Read(entry_name).status();
  }
  if (zip.entries().contains(absl::StrCat(folder, "byteorder"))) {
    EIGSVC_ASSIGN_OR_RETURN(const absl::Span<const std::byte> order,
                            zip.Read(absl::StrCat(folder, "byteorder")));
    const absl::string_view text(reinterpret_cast<const char*>(order.data()), order.size());
    if (text != "little") {
      return absl::FailedPreconditionError(
          absl::StrCat("the file's byte order is ", Quoted(text),
                       "; load it and save it again on a little-endian machine"));
    }
  }
  EIGSVC_ASSIGN_OR_RETURN(const absl::Span<const std::byte> program,
                          zip.Read(absl::StrCat(folder, "data.pkl"), stop));
  EIGSVC_ASSIGN_OR_RETURN(Pickle pickle, Pickle::Run(program, stop));
  return TorchZipReader(file, std::move(zip), std::move(pickle), std::move(folder), name, stop).Read();
}

}  // namespace eigsvc
