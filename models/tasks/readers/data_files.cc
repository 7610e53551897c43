#include "models/tasks/readers/data_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;

absl::Status PathError(const std::string& path, const std::error_code& error) {
  const std::string message = absl::StrCat("cannot read ", path, ": ", error.message());
  return error == std::errc::permission_denied ? absl::PermissionDeniedError(message)
                                               : absl::UnavailableError(message);
}

absl::StatusOr<std::vector<std::string>> FilesBelow(const std::string& directory,
                                                    const DataFileWanted& wanted, const StopToken* stop) {
  std::vector<std::string> names;
  std::error_code error;
  int64_t seen = 0;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
    if (++seen > kMaxDataFiles) {
      return absl::ResourceExhaustedError(absl::StrCat(directory, " holds more than ", kMaxDataFiles,
                                                       " files; name the data's own directory"));
    }
    std::error_code ignored;
    if (!it->is_regular_file(ignored)) continue;
    std::string name = it->path().lexically_relative(directory).generic_string();
    if (wanted(name)) names.push_back(std::move(name));
  }
  if (error) return PathError(directory, error);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

absl::Status VisitDataFiles(const std::string& path, const DataFileWanted& wanted, const DataFileVisit& visit,
                            const StopToken* stop) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    if (error) return PathError(path, error);
    return absl::NotFoundError(absl::StrCat("no such file or directory: ", path));
  }
  if (fs::is_directory(path, error)) {
    EIGSVC_ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesBelow(path, wanted, stop));
    for (const std::string& name : names) {
      EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<ByteStream> stream,
                              OpenFileStream(absl::StrCat(path, "/", name), stop));
      EIGSVC_RETURN_IF_ERROR(visit(name, *stream));
    }
    return absl::OkStatus();
  }
  std::string head(kArchiveHeadBytes, '\0');
  {
    EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<ByteStream> stream, OpenFileStream(path, stop));
    EIGSVC_ASSIGN_OR_RETURN(const size_t got, stream->Read(absl::MakeSpan(head)));
    head.resize(got);
  }
  EIGSVC_ASSIGN_OR_RETURN(const ArchiveKind kind, TellArchive(head, path));
  if (kind != ArchiveKind::kNone) return VisitArchive(path, kind, wanted, visit, stop);
  const absl::string_view name = BaseNameOf(path);
  EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<ByteStream> stream, OpenFileStream(path, stop));
  return visit(name, *stream);
}

absl::Status MissingDataFile(absl::string_view task, absl::string_view path, absl::string_view what) {
  return absl::NotFoundError(absl::StrCat("task ", task, ": ", path, " holds no ", what,
                                          "; `eigsvc tasks describe ", task,
                                          "` says where the data is published and how to lay it out"));
}

absl::Status RepeatedDataFile(absl::string_view task, absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat(
      "task ", task, ": ", name, " is the second file of its kind; name the folder of one of them"));
}

absl::string_view BaseNameOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? path : path.substr(slash + 1);
}

}  // namespace eigsvc
