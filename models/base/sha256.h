// SHA-256 of streams, through OpenSSL. Content addresses of checkpoints are made with it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace eigsvc {

// Thread rule: one object per thread.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(absl::Span<const std::byte> bytes);
  // 64 lower-case hexadecimal digits. The object takes no more bytes afterwards.
  std::string Finish();

  static std::string Of(absl::Span<const std::byte> bytes);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace eigsvc
