// Checksums of data sets as their publishers give them, through OpenSSL.
#include <openssl/evp.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"
#include "models/tasks/readers/data_files.h"

namespace eigsvc {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;

using DigestContext = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

const EVP_MD* AlgorithmOf(absl::string_view name) {
  if (name == "md5") return EVP_md5();
  if (name == "sha1") return EVP_sha1();
  return name == "sha256" ? EVP_sha256() : nullptr;
}

}  // namespace

absl::Status CheckPublished(const std::string& path, absl::string_view checksum, const StopToken* stop) {
  const std::vector<absl::string_view> parts = absl::StrSplit(checksum, ' ');
  const EVP_MD* const algorithm = AlgorithmOf(parts[0]);
  const DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (parts.size() != 2 || algorithm == nullptr || context == nullptr ||
      EVP_DigestInit_ex(context.get(), algorithm, nullptr) != 1) {  // as where a policy forbids MD5
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot compute ", parts[0], " of ", path, " here; give the file under another name to go without"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<ByteStream> stream, OpenFileStream(path, stop));
  std::string piece(kPieceBytes, '\0');
  int64_t bytes = 0;
  while (true) {
    EIGSVC_ASSIGN_OR_RETURN(const size_t got, stream->Read(absl::MakeSpan(piece)));
    if (got == 0) break;
    EVP_DigestUpdate(context.get(), piece.data(), got);
    bytes += static_cast<int64_t>(got);
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(context.get(), digest.data(), &size);
  const std::string found =
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
  if (found == parts[1]) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, " is not the file that is published under this name: the ", parts[0], " of its ",
                   bytes, " bytes is ", found, ", published ", parts[1],
                   "; fetch it again. A subset, or a copy changed on purpose, is read under any other name"));
}

}  // namespace eigsvc
