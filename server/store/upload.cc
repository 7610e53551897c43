#include "server/store/upload.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "server/store/files.h"
#include "server/store/names.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxFiles = 1000;

class KnownUpload : public Store::Upload {
 public:
  explicit KnownUpload(std::string sha256) : sha256_(std::move(sha256)) {}
  bool existed() const override { return true; }
  const std::string& sha256() const override { return sha256_; }
  absl::Status Append(absl::Span<const std::byte>) override { return absl::OkStatus(); }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  const std::string sha256_;
};

class FileUpload : public Store::Upload {
 public:
  FileUpload(StoreKind kind, UploadPlan plan, std::string sha256, std::unique_ptr<Blobs::Staging> staging)
      : kind_(kind), plan_(std::move(plan)), sha256_(std::move(sha256)), staging_(std::move(staging)) {}

  bool existed() const override { return false; }
  const std::string& sha256() const override { return sha256_; }

  absl::Status Append(absl::Span<const std::byte> bytes) override {
    EIGSVC_RETURN_IF_ERROR(status_);
    status_ = DoAppend(bytes);
    return status_;
  }

  absl::Status Finish() override {
    EIGSVC_RETURN_IF_ERROR(status_);
    status_ = DoFinish();
    return status_;
  }

 private:
  std::string Path() const { return absl::StrCat(staging_->directory(), "/", plan_.files[index_].name); }

  // Files without bytes pass by here, too.
  absl::Status DoAppend(absl::Span<const std::byte> bytes) {
    while (true) {
      EIGSVC_RETURN_IF_ERROR(CompleteFiles());
      if (bytes.empty()) return absl::OkStatus();
      if (index_ == plan_.files.size()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the upload has more bytes than its manifest lists; at least ", bytes.size(), " too many"));
      }
      const int64_t missing = plan_.files[index_].size_bytes - received_;
      const auto part = bytes.first(std::min(bytes.size(), static_cast<size_t>(missing)));
      EIGSVC_RETURN_IF_ERROR(WriteAll(file_.get(), part, Path()));
      hash_.Update(part);
      received_ += static_cast<int64_t>(part.size());
      bytes.remove_prefix(part.size());
    }
  }

  // Opens the current file and closes every one that has all its bytes.
  absl::Status CompleteFiles() {
    while (index_ < plan_.files.size()) {
      const UploadPlan::File& file = plan_.files[index_];
      if (!file_.valid()) {
        file_ = Fd(open(Path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!file_.valid()) return FileError(absl::StrCat("cannot create ", Path()), errno);
      }
      if (received_ < file.size_bytes) return absl::OkStatus();
      const std::string digest = hash_.Finish();
      if (digest != file.sha256) {
        return absl::InvalidArgumentError(absl::StrCat("the bytes of ", Quoted(file.name), " have SHA-256 ",
                                                       digest, ", its manifest says ", file.sha256,
                                                       "; upload it again"));
      }
      file_.Close();
      EIGSVC_RETURN_IF_ERROR(SealFile(Path()));
      hash_ = Sha256();
      received_ = 0;
      ++index_;
    }
    return absl::OkStatus();
  }

  absl::Status DoFinish() {
    EIGSVC_RETURN_IF_ERROR(CompleteFiles());
    if (index_ < plan_.files.size()) {
      const UploadPlan::File& file = plan_.files[index_];
      return absl::InvalidArgumentError(absl::StrCat("the upload ended early: ", received_, " of the ",
                                                     file.size_bytes, " bytes of ", Quoted(file.name),
                                                     " came"));
    }
    if (staging_ == nullptr) return absl::OkStatus();  // finished before
    EIGSVC_RETURN_IF_ERROR(staging_->Publish(kind_, sha256_, plan_.directory));
    staging_.reset();
    return absl::OkStatus();
  }

  const StoreKind kind_;
  const UploadPlan plan_;
  const std::string sha256_;
  std::unique_ptr<Blobs::Staging> staging_;
  absl::Status status_;   // the first error sticks
  size_t index_ = 0;      // of the current file
  int64_t received_ = 0;  // of its bytes
  Fd file_;
  Sha256 hash_;
};

}  // namespace

absl::StatusOr<int64_t> CheckPlan(const UploadPlan& plan) {
  if (plan.files.empty() || plan.files.size() > kMaxFiles || (plan.files.size() > 1 && !plan.directory)) {
    return absl::InvalidArgumentError(absl::StrCat("the manifest lists ", plan.files.size(),
                                                   " files; give one, or set "
                                                   "`directory` and give 1 to ",
                                                   kMaxFiles));
  }
  int64_t total = 0;
  std::set<std::string> names;
  for (const UploadPlan::File& file : plan.files) {
    EIGSVC_RETURN_IF_ERROR(Annotate(CheckBareName(file.name), "manifest"));
    EIGSVC_RETURN_IF_ERROR(
        Annotate(CheckDigest(file.sha256), absl::StrCat("manifest, file ", Quoted(file.name))));
    if (file.size_bytes < 0 || file.size_bytes > std::numeric_limits<int64_t>::max() - total) {
      return absl::InvalidArgumentError(absl::StrCat("manifest, file ", Quoted(file.name), ": size_bytes ",
                                                     file.size_bytes, " is out of range"));
    }
    if (!names.insert(file.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("the manifest lists ", Quoted(file.name), " twice"));
    }
    total += file.size_bytes;
  }
  return total;
}

absl::Status SealFile(const std::string& path) {
  const Fd file(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid() || fchmod(file.get(), 0400) != 0 || fsync(file.get()) != 0) {
    return FileError(absl::StrCat("cannot sync ", path), errno);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Store::Upload>> NewUpload(StoreKind kind, const UploadPlan& plan,
                                                         std::string sha256,
                                                         std::unique_ptr<Blobs::Staging> staging) {
  return std::unique_ptr<Store::Upload>(new FileUpload(kind, plan, std::move(sha256), std::move(staging)));
}

std::unique_ptr<Store::Upload> NewKnownUpload(std::string sha256) {
  return std::make_unique<KnownUpload>(std::move(sha256));
}

}  // namespace eigsvc
