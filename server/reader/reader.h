// ConfinedReader: weight files are taken apart by processes that can do nothing else, so that a flaw in a
// reader of hostile bytes finds nothing to reach: no file, no network, no program, no weights of others.
//
// A keeper, forked while its owner has one thread, forks a reader for each file. The reader gets the open
// file, for reading, and a socket (SCM_RIGHTS), enters its jail (jail.h), and sends what it found, which the
// owner checks before it touches a byte (CheckContents). A reader's crash is an error about one file.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/archive/contents.h"
#include "models/archive/file_bytes.h"

namespace eigsvc {

class ConfinedReader : public ContentsReader {
 public:
  // Takes a mapped file of the given name apart: ReadContents, or what a test puts in its place.
  using TakeApart =
      std::function<absl::StatusOr<FileContents>(absl::Span<const std::byte>, const std::string&)>;

  // Forks the keeper: REQUIRES that this process has no other thread yet. UNAVAILABLE when it cannot. The
  // keeper ends with this object, or with this process.
  static absl::StatusOr<std::unique_ptr<ConfinedReader>> Start(TakeApart take_apart = ReadWholeContents);
  ~ConfinedReader() override;

  // Any number at a time, each by a process of its own, which is killed when `stop` says so. Codes as
  // Archive::Open, and DATA_LOSS when the file shrank meanwhile; RESOURCE_EXHAUSTED when it takes more than
  // 256 MiB beyond the file; INTERNAL when the reader crashed, or did what it may not; UNAVAILABLE when the
  // keeper is gone.
  absl::StatusOr<FileContents> Read(const OpenedFile& file, const StopToken& stop) const override;

 private:
  static absl::StatusOr<FileContents> ReadWholeContents(absl::Span<const std::byte> bytes,
                                                        const std::string& name);
  ConfinedReader(int control, int64_t keeper) : control_(control), keeper_(keeper) {}

  const int control_;  // a socket to the keeper
  const int64_t keeper_;
};

}  // namespace eigsvc
