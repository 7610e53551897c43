// Any bytes as a file of a data set: the first byte picks the reader, which gives what it promises or a
// Status that says why not. Tokenizers that were read must also encode.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/tasks/listops_expression.h"
#include "models/tasks/readers/cifar_batch.h"
#include "models/tasks/readers/data_files.h"
#include "models/tasks/readers/token_file.h"
#include "models/tasks/tokenizers/tokenizer.h"

namespace eigsvc {
namespace {

absl::Status ReadArchive(absl::string_view bytes) {
  const int file = memfd_create("archive", 0);
  if (file < 0 || write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
  const absl::Status status = VisitDataFiles(
      absl::StrCat("/proc/self/fd/", file), [](absl::string_view) { return true; },
      [](absl::string_view, ByteStream& stream) { return ReadAll(stream, 1 << 20).status(); }, nullptr);
  close(file);
  return status;
}

absl::Status ReadListOps(absl::string_view text) {
  const auto expression = ParseListOps(text);
  if (expression.ok() && (expression->value < 0 || expression->value > 9)) std::abort();
  return expression.status();
}

absl::Status ReadCifar(absl::string_view bytes) {
  const auto batch = ParseCifarBatch(bytes, "fuzz");
  if (batch.ok() && batch->pixels.size() != batch->labels.size() * kCifarImageBytes) std::abort();
  return batch.status();
}

absl::Status EncodeWith(const absl::StatusOr<std::shared_ptr<const Tokenizer>>& tokenizer) {
  if (!tokenizer.ok()) return tokenizer.status();
  const auto session = (*tokenizer)->NewSession();
  if (!session.ok()) return session.status();
  for (const char* text :
       {"", "ab aab", " the quick\n\xc3\xa9 12 \xf0\x9f\x98\x80", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}) {
    std::vector<int32_t> ids;
    const absl::Status status = (*session)->Encode(text, &ids);
    if (!status.ok() && status.message().empty()) std::abort();
    for (const int32_t id : ids) {
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    }
  }
  return absl::OkStatus();
}

absl::Status Read(uint8_t kind, absl::string_view bytes) {
  switch (kind % 6) {
    case 0:
      return ReadArchive(bytes);
    case 1:
      return ReadListOps(bytes);
    case 2:
      return ReadCifar(bytes);
    case 3:
      return EncodeWith(ReadTokenizerJson(bytes, "fuzz"));
    case 4:
      return EncodeWith(ReadSentencePieceBin(bytes, "fuzz"));
    default:
      return ParseTokens(bytes, "fuzz").status();
  }
}

}  // namespace
}  // namespace eigsvc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const absl::Status status = eigsvc::Read(data[0], bytes);
  if (!status.ok() && status.message().empty()) std::abort();
  return 0;
}
