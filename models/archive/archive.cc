// Opening checkpoints: files are found, read and hashed; their format is told from their first bytes; the
// readers' tensors are merged, and wrappers' prefixes dropped.
#include "models/archive/archive.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/archive/checkpoint_files.h"
#include "models/archive/file_bytes.h"
#include "models/archive/pickle_machine.h"
#include "models/archive/safetensors.h"
#include "models/archive/torch_zip.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

// A format known by its first bytes that is not read, and what to do about it.
struct ForeignFormat {
  absl::string_view magic;
  size_t offset;
  absl::string_view what;
};
constexpr ForeignFormat kForeignFormats[] = {
    {absl::string_view("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", 15), 0,
     "is a legacy torch file (before PyTorch 1.6); load it and save it again with torch.save of a newer "
     "PyTorch"},
    {absl::string_view("ustar", 5), 257,
     "is a tar file, perhaps of a very old PyTorch; load it and save it again with torch.save of a newer "
     "PyTorch"},
    {absl::string_view("GGUF", 4), 0, "is a GGUF file, which is quantised; use the model's safetensors"},
    {absl::string_view("\x89HDF", 4), 0, "is an HDF5 file; save the weights as safetensors"},
    {absl::string_view("\x1f\x8b", 2), 0, "is compressed with gzip; decompress it first"},
    {absl::string_view("version https://git-lfs", 23), 0,
     "is a Git LFS pointer, not the file itself; run `git lfs pull`"},
};

absl::string_view Text(absl::Span<const std::byte> bytes) {
  return absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

struct Parsed {
  absl::btree_map<std::string, ArchiveTensor> tensors;
  Settings settings;
  std::string format;
};

// `bytes`: the whole file, or its head alone, with `on_demand` the file that has the rest.
absl::StatusOr<Parsed> ParseSafetensors(const FileBytes& bytes, const OpenedFile& file,
                                        const std::shared_ptr<const OpenedFile>& on_demand) {
  EIGSVC_ASSIGN_OR_RETURN(const SafetensorsHeader header, ParseSafetensorsHeader(bytes.bytes, file.size()));
  Parsed parsed;
  for (const auto& [key, entry] : header.tensors) {
    ArchiveTensor tensor{entry.type, entry.shape, std::vector<int64_t>(entry.shape.size())};
    if (on_demand != nullptr) {
      tensor.file = on_demand;
      tensor.file_begin = entry.begin;
      tensor.file_end = entry.end;
    } else {
      tensor.storage = bytes.bytes.subspan(entry.begin, entry.end - entry.begin);
      tensor.owner = bytes.owner;
    }
    int64_t stride = 1;
    for (size_t d = tensor.shape.size(); d-- > 0;) {
      tensor.strides[d] = stride;
      stride *= std::max<int64_t>(tensor.shape[d], 1);
    }
    parsed.tensors.emplace(key, std::move(tensor));
  }
  nlohmann::json metadata = nlohmann::json::object();
  for (const auto& [key, value] : header.metadata) metadata[key] = value;
  parsed.settings = LiftConfig(Settings(std::move(metadata), absl::StrCat("the metadata of ", file.name())));
  parsed.format = "safetensors";
  return parsed;
}

absl::StatusOr<Parsed> ParseWhole(const FileBytes& bytes, const OpenedFile& file, const StopToken& stop) {
  const absl::string_view text = Text(bytes.bytes);
  if (absl::StartsWith(text, "PK\x03\x04")) {
    EIGSVC_ASSIGN_OR_RETURN(TorchZip zip, ReadTorchZip(bytes, file.name(), stop));
    return Parsed{std::move(zip.tensors), std::move(zip.settings), "torch-zip"};
  }
  for (const ForeignFormat& format : kForeignFormats) {
    if (text.size() >= format.offset && absl::StartsWith(text.substr(format.offset), format.magic)) {
      return absl::FailedPreconditionError(absl::StrCat("it ", format.what));
    }
  }
  if (text.size() > 8 && text[8] == '{') return ParseSafetensors(bytes, file, nullptr);
  if (text.size() > 2 && text[0] == '\x80' && text[1] <= 5) {
    // Never a checkpoint; what it would have called is worth saying.
    EIGSVC_RETURN_IF_ERROR(Pickle::Run(bytes.bytes, stop).status());
    return absl::InvalidArgumentError(
        "it is a bare pickle, not a file of torch.save; save model.state_dict() with torch.save");
  }
  return absl::InvalidArgumentError(
      "it is neither a safetensors file nor a zip file of torch.save; export the weights as one of them");
}

// Sets `digest` to the SHA-256 of exactly the bytes that were parsed.
absl::StatusOr<Parsed> ParseFile(const std::shared_ptr<const OpenedFile>& file, const ArchiveOptions& options,
                                 std::string& digest) {
  if (options.on_demand && file->size() > 8) {
    EIGSVC_ASSIGN_OR_RETURN(const FileBytes first, file->ReadRange(0, 9, *options.stop));
    if (const std::optional<int64_t> head = SafetensorsHeadBytes(first.bytes)) {
      EIGSVC_ASSIGN_OR_RETURN(const FileBytes bytes, file->ReadHead(*head, *options.stop));
      digest = bytes.sha256;
      return ParseSafetensors(bytes, *file, file);
    }
  }
  EIGSVC_ASSIGN_OR_RETURN(const FileBytes bytes, file->Read(options.memory_map, *options.stop));
  digest = bytes.sha256;
  return ParseWhole(bytes, *file, *options.stop);
}

// Prefixes that wrappers put before every key: DataParallel, torch.compile, Lightning and training scripts.
void StripWrappers(absl::btree_map<std::string, ArchiveTensor>& tensors) {
  // "model." is part of the names of Hugging Face's own models, which have one of these keys.
  const auto belongs = [&] {
    return tensors.contains("model.embed_tokens.weight") || tensors.contains("model.embeddings.weight");
  };
  for (bool stripped = true; std::exchange(stripped, false);) {
    for (const absl::string_view prefix : {"module.", "_orig_mod.", "model.", "net."}) {
      // In a sorted map all keys share a prefix when the first and the last do.
      if (!absl::StartsWith(tensors.begin()->first, prefix) ||
          !absl::StartsWith(tensors.rbegin()->first, prefix))
        continue;
      if (tensors.begin()->first.size() == prefix.size() || (prefix == "model." && belongs())) continue;
      absl::btree_map<std::string, ArchiveTensor> shorter;
      for (auto& [key, tensor] : tensors) shorter.emplace(key.substr(prefix.size()), std::move(tensor));
      tensors = std::move(shorter);
      stripped = true;
    }
  }
}

}  // namespace

Archive::Archive(absl::btree_map<std::string, ArchiveTensor> tensors, Settings settings, std::string name)
    : tensors_(std::move(tensors)), settings_(std::move(settings)), name_(std::move(name)) {}

absl::StatusOr<Archive> Archive::Open(const std::string& path, const ArchiveOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const CheckpointFiles files, FindCheckpointFiles(path));
  std::vector<std::shared_ptr<const OpenedFile>> opened;
  Archive archive;
  archive.name_ = BaseName(path);
  for (const std::string& weights : files.weights) {
    EIGSVC_ASSIGN_OR_RETURN(OpenedFile file, OpenedFile::Open(weights));
    if (file.size() > options.max_bytes - archive.file_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat(Quoted(archive.name_), " has more than the ", options.max_bytes, " bytes allowed"));
    }
    archive.file_bytes_ += file.size();
    opened.push_back(std::make_shared<const OpenedFile>(std::move(file)));
  }
  std::vector<std::pair<std::string, std::string>> digests;  // name, SHA-256
  for (const std::shared_ptr<const OpenedFile>& file : opened) {
    std::string digest;
    absl::StatusOr<Parsed> parsed = ParseFile(file, options, digest);
    if (!parsed.ok()) return Annotate(parsed.status(), Quoted(file->name()));
    digests.emplace_back(file->name(), std::move(digest));
    for (auto& [key, tensor] : parsed->tensors) {
      if (const auto mapped = files.weight_map.find(key);
          mapped == files.weight_map.end() ? !files.weight_map.empty() : mapped->second != file->name()) {
        return absl::DataLossError(absl::StrCat("tensor ", Quoted(key), " is in ", Quoted(file->name()),
                                                ", but not so in the index"));
      }
      archive.tensors_.emplace(key, std::move(tensor));
    }
    archive.settings_ = archive.settings_.MergedWith(parsed->settings);
    archive.format_ = parsed->format;
  }
  for (const auto& [key, file] : files.weight_map) {
    if (!archive.tensors_.contains(key)) {
      return absl::DataLossError(absl::StrCat("the index places tensor ", Quoted(key), " in ", Quoted(file),
                                              ", which lacks it; copy it again"));
    }
  }
  if (archive.tensors_.empty())
    return absl::InvalidArgumentError(absl::StrCat(Quoted(archive.name_), " holds no tensors"));
  StripWrappers(archive.tensors_);
  if (!files.config.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(files.config));
    EIGSVC_ASSIGN_OR_RETURN(const Settings config, Settings::Parse(text, "config.json"));
    archive.settings_ = archive.settings_.MergedWith(config);
    const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
    digests.emplace_back("config.json", Sha256::Of(absl::MakeConstSpan(bytes, text.size())));
  }
  archive.sha256_ = digests[0].second;
  if (files.directory) {
    std::sort(digests.begin(), digests.end());
    std::string lines;
    for (const auto& [name, digest] : digests) absl::StrAppend(&lines, digest, "  ", name, "\n");
    archive.sha256_ =
        Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(lines.data()), lines.size()));
  }
  return archive;
}

absl::StatusOr<ArchiveTensor> Fetch(const ArchiveTensor& tensor, const StopToken& stop) {
  if (tensor.file == nullptr) return tensor;
  EIGSVC_ASSIGN_OR_RETURN(FileBytes bytes, tensor.file->ReadRange(tensor.file_begin, tensor.file_end, stop));
  ArchiveTensor fetched = tensor;
  fetched.storage = bytes.bytes;
  fetched.owner = std::move(bytes.owner);
  fetched.file = nullptr;
  return fetched;
}

int64_t Archive::ParameterCount() const {
  // Tied tensors begin at the same byte; views of one flat buffer do not. A safetensors file ties nothing.
  std::set<const std::byte*> counted;
  int64_t count = 0;
  for (const auto& [key, tensor] : tensors_) {
    const int64_t elements = tensor.ElementCount();
    if (elements == 0) continue;
    if (tensor.file != nullptr) {
      count += elements;
      continue;
    }
    if (counted.insert(tensor.storage.data() + tensor.offset * ElementBytes(tensor.type)).second)
      count += elements;
  }
  return count;
}

}  // namespace eigsvc
