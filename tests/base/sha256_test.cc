#include "models/base/sha256.h"

#include <string>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

absl::Span<const std::byte> Bytes(const std::string& text) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size());
}

// FIPS 180-2, appendix B, and NIST's example for the empty message.
TEST(Sha256Test, PublishedVectors) {
  EXPECT_EQ(Sha256::Of({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256::Of(Bytes("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256::Of(Bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256::Of(Bytes(std::string(1'000'000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, PiecesGiveTheSameDigestAsTheWhole) {
  const std::string whole(1000, 'x');
  for (const size_t piece : {1, 63, 64, 65, 999}) {
    Sha256 hash;
    for (size_t at = 0; at < whole.size(); at += piece) hash.Update(Bytes(whole.substr(at, piece)));
    EXPECT_EQ(hash.Finish(), Sha256::Of(Bytes(whole))) << piece;
  }
}

TEST(Sha256Test, AMovedHashGoesOn) {
  Sha256 first;
  first.Update(Bytes("a"));
  Sha256 second = std::move(first);
  second.Update(Bytes("bc"));
  EXPECT_EQ(second.Finish(), Sha256::Of(Bytes("abc")));
}

}  // namespace
}  // namespace eigsvc
