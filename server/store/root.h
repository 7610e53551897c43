// Root: a directory of the operator's whose files clients may name. Who can write there is trusted not to
// swap a checked file for a link while a worker opens it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/files.h"
#include "server/store/store.h"

namespace eigsvc {

class Root {
 public:
  // `path` empty: a root without entries. UNAVAILABLE when the directory cannot be opened.
  static absl::StatusOr<Root> Open(StoreKind kind, const std::string& path);

  // As Store::ResolveName. The file's neighbours that a reader opens with it (config.json; a directory's
  // entries, of data those of the folders in it as well) are checked alike.
  absl::StatusOr<std::string> Resolve(const std::string& name) const;

  // By name. A checkpoint root lists checkpoint files and directories that hold a checkpoint; a data root
  // every file. Hidden files, links to directories and names that no client could send are left out; at most
  // 10000 entries.
  std::vector<StoredEntry> List() const;

 private:
  Root(StoreKind kind, Fd fd, std::string path) : kind_(kind), fd_(std::move(fd)), path_(std::move(path)) {}
  absl::Status CheckEntry(const std::string& name) const;
  absl::Status CheckNeighbours(const std::string& name) const;
  absl::Status CheckLinksBelow(const std::string& name) const;
  void ListDirectory(const std::string& directory, int depth, std::vector<StoredEntry>* entries) const;

  StoreKind kind_;
  Fd fd_;
  std::string path_;
};

// "checkpoint", "data".
absl::string_view KindName(StoreKind kind);

}  // namespace eigsvc
