#include "server/store/root.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "server/store/beneath.h"
#include "server/store/names.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxListed = 10000, kMaxSuggested = 20;
constexpr int kMaxDepth = 8;

std::string Join(const std::string& directory, const std::string& entry) {
  return directory.empty() ? entry : absl::StrCat(directory, "/", entry);
}

// A shard ("model-00001-of-00003.safetensors") is no checkpoint on its own; its directory is.
bool IsShard(absl::string_view stem) {
  const size_t of = stem.rfind("-of-");
  return of != absl::string_view::npos && of >= 6 && stem.size() - of == 9 && stem[of - 6] == '-' &&
         stem.find_first_not_of("0123456789", of - 5) == of &&
         stem.find_first_not_of("0123456789", of + 4) == absl::string_view::npos;
}

bool IsCheckpointFile(absl::string_view name) {
  for (absl::string_view extension : {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}) {
    if (absl::ConsumeSuffix(&name, extension)) return !name.empty() && !IsShard(name);
  }
  return false;
}

// The rule of Archive::Open.
bool HoldsCheckpoint(const std::vector<std::string>& files) {
  int candidates = 0;
  for (const std::string& file : files) {
    if (file == "model.safetensors" || file == "model.safetensors.index.json" ||
        file == "pytorch_model.bin" || file == "pytorch_model.bin.index.json") {
      return true;
    }
    candidates += IsCheckpointFile(file);
  }
  return candidates == 1;
}

}  // namespace

absl::string_view KindName(StoreKind kind) { return kind == StoreKind::kCheckpoint ? "checkpoint" : "data"; }

absl::StatusOr<Root> Root::Open(StoreKind kind, const std::string& path) {
  if (path.empty()) return Root(kind, Fd(), "");
  Fd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return FileError(absl::StrCat("cannot open the ", KindName(kind), " root ", path), errno);
  EIGSVC_ASSIGN_OR_RETURN(std::string real, PathOf(fd.get()));
  return Root(kind, std::move(fd), std::move(real));
}

absl::Status Root::CheckEntry(const std::string& name) const {
  const absl::StatusOr<Fd> opened = OpenBeneath(fd_.get(), name);
  return absl::IsNotFound(opened.status()) ? absl::OkStatus() : opened.status();
}

absl::Status Root::CheckNeighbours(const std::string& name) const {
  EIGSVC_ASSIGN_OR_RETURN(const Fd fd, OpenBeneath(fd_.get(), name));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return FileError(absl::StrCat("cannot stat ", Quoted(name)), errno);
  if (S_ISREG(info.st_mode)) {
    const size_t slash = name.rfind('/');
    return CheckEntry(Join(slash == std::string::npos ? "" : name.substr(0, slash), "config.json"));
  }
  for (const std::string& entry : EntryNames(absl::StrCat(path_, "/", name))) {
    EIGSVC_RETURN_IF_ERROR(CheckEntry(Join(name, entry)));
  }
  return kind_ == StoreKind::kData ? CheckLinksBelow(name) : absl::OkStatus();
}

// Readers of data go into folders, where only a link to a file could lead out: they follow none to a folder.
absl::Status Root::CheckLinksBelow(const std::string& name) const {
  std::error_code error;
  const std::filesystem::path top = absl::StrCat(path_, "/", name);
  for (std::filesystem::recursive_directory_iterator it(top, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (!it->is_symlink(ignored)) continue;
    EIGSVC_RETURN_IF_ERROR(CheckEntry(it->path().lexically_relative(path_).generic_string()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Root::Resolve(const std::string& name) const {
  EIGSVC_RETURN_IF_ERROR(Annotate(CheckRelativeName(name), KindName(kind_)));
  if (!fd_.valid()) {
    return absl::NotFoundError(absl::StrCat(
        "this server has no ", KindName(kind_), " root, so ", Quoted(name),
        " names nothing; upload the file, or start the server with --", KindName(kind_), "-root"));
  }
  const absl::Status checked = CheckNeighbours(name);
  if (absl::IsNotFound(checked)) {
    std::vector<std::string> known;
    for (StoredEntry& entry : List()) {
      if (known.size() < kMaxSuggested) known.push_back(std::move(entry.name));
    }
    return UnknownName(KindName(kind_), name, known);
  }
  EIGSVC_RETURN_IF_ERROR(Annotate(checked, KindName(kind_)));
  return absl::StrCat(path_, "/", name);
}

void Root::ListDirectory(const std::string& directory, int depth, std::vector<StoredEntry>* entries) const {
  std::vector<std::string> files, directories;
  std::vector<StoredEntry> found;
  int64_t total_bytes = 0;
  for (const std::string& entry : EntryNames(absl::StrCat(path_, "/", directory))) {
    const std::string name = Join(directory, entry);
    if (entry.front() == '.' || !CheckRelativeName(name).ok()) continue;
    const absl::StatusOr<Fd> fd = OpenBeneath(fd_.get(), name);
    struct stat info {};
    struct stat self {};
    if (!fd.ok() || fstat(fd->get(), &info) != 0) continue;
    if (S_ISDIR(info.st_mode)) {
      // A link to a directory may lead back up.
      if (fstatat(fd_.get(), name.c_str(), &self, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(self.st_mode)) {
        directories.push_back(name);
      }
      continue;
    }
    files.push_back(entry);
    total_bytes += info.st_size;
    if (kind_ == StoreKind::kData || IsCheckpointFile(entry)) {
      found.push_back({.name = name, .size_bytes = info.st_size, .directory = false});
    }
  }
  if (kind_ == StoreKind::kCheckpoint && !directory.empty() && HoldsCheckpoint(files)) {
    entries->push_back({.name = directory, .size_bytes = total_bytes, .directory = true});
  }
  std::move(found.begin(), found.end(), std::back_inserter(*entries));
  for (const std::string& below : directories) {
    if (depth < kMaxDepth && entries->size() < kMaxListed) ListDirectory(below, depth + 1, entries);
  }
}

std::vector<StoredEntry> Root::List() const {
  std::vector<StoredEntry> entries;
  if (fd_.valid()) ListDirectory("", 1, &entries);
  std::sort(entries.begin(), entries.end(),
            [](const StoredEntry& a, const StoredEntry& b) { return a.name < b.name; });
  if (entries.size() > kMaxListed) entries.resize(kMaxListed);
  return entries;
}

}  // namespace eigsvc
