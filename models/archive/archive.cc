// Opening checkpoints: files are found, read and hashed; what they hold is found out (contents.h) and merged,
// and wrappers' prefixes are dropped.
#include "models/archive/archive.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/archive/checkpoint_files.h"
#include "models/archive/contents.h"
#include "models/archive/file_bytes.h"
#include "models/archive/safetensors.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

struct Parsed {
  FileContents contents;
  absl::btree_map<std::string, ArchiveTensor> tensors;
};

// Sets `digest` to the SHA-256 of exactly the bytes that were parsed.
absl::StatusOr<Parsed> ParseFile(const std::shared_ptr<const OpenedFile>& file, const ArchiveOptions& options,
                                 std::string& digest) {
  std::optional<int64_t> head;
  if (options.on_demand && file->size() > 8) {
    EIGSVC_ASSIGN_OR_RETURN(const FileBytes first, file->ReadRange(0, 9, *options.stop));
    head = SafetensorsHeadBytes(first.bytes);
  }
  const Hold copied = options.reader == nullptr ? Hold::kMemory : Hold::kSharedMemory;
  EIGSVC_ASSIGN_OR_RETURN(const FileBytes bytes,
                          head ? file->ReadHead(*head, copied, *options.stop)
                               : file->Read(options.memory_map ? Hold::kMap : copied, *options.stop));
  digest = bytes.sha256;
  Parsed parsed;
  if (options.reader == nullptr) {
    EIGSVC_ASSIGN_OR_RETURN(parsed.contents,
                            ReadContents(bytes.bytes, file->name(), file->size(), *options.stop));
  } else {
    EIGSVC_ASSIGN_OR_RETURN(parsed.contents,
                            options.reader->Read(bytes, file->name(), file->size(), *options.stop));
    EIGSVC_RETURN_IF_ERROR(CheckContents(parsed.contents, file->size()));
  }
  parsed.tensors = head ? TensorsIn(parsed.contents, file) : TensorsIn(parsed.contents, bytes);
  return parsed;
}

// Prefixes that wrappers put before every key: DataParallel, torch.compile, Lightning and training scripts.
void StripWrappers(absl::btree_map<std::string, ArchiveTensor>& tensors) {
  // "model." is part of the names of Hugging Face's own models, which have one of these keys.
  const auto belongs = [&] {
    return tensors.contains("model.embed_tokens.weight") || tensors.contains("model.embeddings.weight") ||
           tensors.contains("model.language_model.embed_tokens.weight");
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
    archive.settings_ = archive.settings_.MergedWith(parsed->contents.settings);
    archive.format_ = parsed->contents.format;
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
