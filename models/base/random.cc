#include "models/base/random.h"

#include <cmath>
#include <numbers>

namespace eigsvc {
namespace {

// SplitMix64 finaliser (Steele et al., OOPSLA 2014): folds the key words into Philox's key and counter.
uint64_t Mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace

Random::Random(std::initializer_list<uint64_t> key) {
  uint64_t a = Mix(key.size()), b = Mix(~key.size());
  for (const uint64_t word : key) {
    a = Mix(a ^ word);
    b = Mix(b + word);
  }
  key_ = {static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32)};
  counter_ = {0, 0, static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32)};
}

uint64_t Random::Bits() {
  if (used_ > 2) {
    block_ = Philox(counter_, key_);
    if (++counter_[0] == 0) ++counter_[1];
    used_ = 0;
  }
  const uint64_t bits = block_[used_] | (uint64_t{block_[used_ + 1]} << 32);
  used_ += 2;
  return bits;
}

uint64_t Random::Below(uint64_t bound) {
  // Lemire's multiply-shift with rejection (ACM TOMACS 2019).
  unsigned __int128 product = static_cast<unsigned __int128>(Bits()) * bound;
  if (static_cast<uint64_t>(product) < bound) {
    const uint64_t threshold = -bound % bound;
    while (static_cast<uint64_t>(product) < threshold)
      product = static_cast<unsigned __int128>(Bits()) * bound;
  }
  return static_cast<uint64_t>(product >> 64);
}

double Random::Unit() { return static_cast<double>(Bits() >> 11) * 0x1.0p-53; }

double Random::Normal() {
  const double radius = std::sqrt(-2 * std::log(1 - Unit()));
  return radius * std::cos(2 * std::numbers::pi * Unit());
}

}  // namespace eigsvc
