#include "server/reader/reader_main.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/reader/contents_proto.h"
#include "server/reader/jail.h"

namespace eigsvc {
namespace {

constexpr int64_t kMoreBytes = int64_t{256} << 20;  // of addresses, beyond those of the bytes it maps
constexpr int kBytes = 3, kAnswer = 4;              // a reader's descriptors, beside the standard ones

// Another reader's descriptors, the keeper's and the log are not for this one.
bool KeepOwnDescriptorsOnly(const ReadRequest& request) {
  constexpr int kBeyond = 16;
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int bytes = fcntl(request.bytes, F_DUPFD, kBeyond), answer = fcntl(request.answer, F_DUPFD, kBeyond);
  if (null < 0 || bytes < 0 || answer < 0) return false;
  for (int standard = 0; standard <= (kSanitized ? 1 : 2); ++standard) {  // a sanitizer reports on stderr
    if (dup2(null, standard) < 0) return false;
  }
  if (dup2(bytes, kBytes) < 0 || dup2(answer, kAnswer) < 0) return false;
  if (syscall(SYS_close_range, static_cast<unsigned>(kAnswer + 1), ~0U, 0U) == 0) return true;
  const int64_t most = sysconf(_SC_OPEN_MAX);  // a kernel older than the call
  for (int descriptor = kAnswer + 1; descriptor < most; ++descriptor) close(descriptor);
  return most > 0;
}

worker::v1::FileContents TakeApartInJail(const ReadRequest& request,
                                         const ConfinedReader::TakeApart& take_apart) {
  const absl::StatusOr<OpenedFile> file = OpenedFile::Adopt(kBytes, request.name);
  if (!file.ok()) return ContentsProto(file.status());
  const absl::StatusOr<FileBytes> mapped = file->Map();
  if (!mapped.ok()) return ContentsProto(mapped.status());
  const absl::Status jail = EnterJail(kMoreBytes, file->size());
  worker::v1::FileContents answer =
      ContentsProto(take_apart(mapped->bytes, request.name, request.file_bytes));
  answer.set_unconfined(std::string(jail.message()));
  return answer;
}

std::string Answer(const ReadRequest& request, const ConfinedReader::TakeApart& take_apart) {
  absl::Status failure;
  try {
    return TakeApartInJail(request, take_apart).SerializeAsString();
  } catch (const std::bad_alloc&) {
    failure = absl::ResourceExhaustedError(
        "it takes more memory to read than any checkpoint should; save the weights alone");
  } catch (const std::exception& error) {
    failure =
        absl::DataLossError(absl::StrCat("it cannot be read (", error.what(), "); save the weights alone"));
  }
  return ContentsProto(failure).SerializeAsString();
}

}  // namespace

bool SendAll(int socket, const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = send(socket, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

void BeReader(ReadRequest request, const ConfinedReader::TakeApart& take_apart) {
  prctl(PR_SET_NAME, "eigsvc-reader");
  if (!KeepOwnDescriptorsOnly(request)) _exit(1);
  const std::string bytes = Answer(request, take_apart);
  const int64_t size = static_cast<int64_t>(bytes.size());
  const bool sent = SendAll(kAnswer, &size, sizeof size) && SendAll(kAnswer, bytes.data(), bytes.size());
  _exit(sent ? 0 : 1);
}

}  // namespace eigsvc
