// ConfinedReader: weight files are taken apart by processes that can do nothing else, so that a flaw in a
// reader of hostile bytes finds nothing to reach: no file, no network, no program, no weights of others.
//
// A keeper, forked while its owner has one thread, forks a reader for each file. The reader gets a descriptor
// of the bytes, for reading, and a socket (SCM_RIGHTS), goes to jail (jail.h), and sends what it found, which
// the owner checks before it touches a byte (CheckContents). A reader's crash is an error about one file.
// What is left to one that was taken over: processor time for some minutes, an answer full of lies, and the
// owner's addresses and stack guard, which a fork shares.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/archive/contents.h"

namespace eigsvc {

class ConfinedReader : public ContentsReader {
 public:
  // What a reader does: ReadContents, or what a test puts in its place.
  using TakeApart = std::function<absl::StatusOr<FileContents>(absl::Span<const std::byte> bytes,
                                                               const std::string& name, int64_t file_bytes)>;

  // Forks the keeper: REQUIRES that this process has no other thread yet. UNAVAILABLE when it cannot. The
  // keeper ends with this object, or with this process.
  static absl::StatusOr<std::unique_ptr<ConfinedReader>> Start(TakeApart take_apart = ReadWhatItIs);
  ~ConfinedReader() override;

  // Any number at a time, each by a process of its own, which is killed when `stop` says so. Codes as
  // Archive::Open, and DATA_LOSS when the file shrank meanwhile; RESOURCE_EXHAUSTED when it takes more than
  // 256 MiB beyond the file; INTERNAL when the reader crashed, or did what it may not; UNAVAILABLE when no
  // reader could be started, or one was killed from outside.
  absl::StatusOr<FileContents> Read(const FileBytes& bytes, const std::string& name, int64_t file_bytes,
                                    const StopToken& stop) const override;

  // Returns once the keeper is gone, after which nothing can be read: its owner had better start anew.
  void WaitUntilKeeperIsGone() const;

 private:
  static absl::StatusOr<FileContents> ReadWhatItIs(absl::Span<const std::byte> bytes, const std::string& name,
                                                   int64_t file_bytes);
  ConfinedReader(int control, pid_t keeper) : control_(control), keeper_(keeper) {}

  const int control_;  // a socket to the keeper
  const pid_t keeper_;
};

}  // namespace eigsvc
