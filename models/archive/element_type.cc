// What is known of element types: sizes, names, and the value of one element.
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "models/archive/archive.h"

namespace eigsvc {
namespace {

struct ElementRow {
  ElementType type;
  int64_t bytes;
  absl::string_view name;
};

constexpr ElementRow kRows[] = {
    {ElementType::kBool, 1, "BOOL"},
    {ElementType::kUInt8, 1, "U8"},
    {ElementType::kInt8, 1, "I8"},
    {ElementType::kUInt16, 2, "U16"},
    {ElementType::kInt16, 2, "I16"},
    {ElementType::kUInt32, 4, "U32"},
    {ElementType::kInt32, 4, "I32"},
    {ElementType::kUInt64, 8, "U64"},
    {ElementType::kInt64, 8, "I64"},
    {ElementType::kFloat8E4M3, 1, "F8_E4M3"},
    {ElementType::kFloat8E5M2, 1, "F8_E5M2"},
    {ElementType::kFloat16, 2, "F16"},
    {ElementType::kBFloat16, 2, "BF16"},
    {ElementType::kFloat32, 4, "F32"},
    {ElementType::kFloat64, 8, "F64"},
    {ElementType::kComplex64, 8, "C64"},
    {ElementType::kComplex128, 16, "C128"},
};

const ElementRow& Row(ElementType type) { return kRows[static_cast<size_t>(type)]; }

constexpr bool RowsAreInOrder() {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<size_t>(kRows[i].type) != i) return false;
  }
  return std::size(kRows) == static_cast<size_t>(ElementType::kComplex128) + 1;
}
static_assert(RowsAreInOrder());

// The bytes may be unaligned: copied, never cast.
template <typename T>
double Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return static_cast<double>(value);
}

// A small IEEE-like float: sign, `exponent_bits`, `mantissa_bits`. Exact, because every such value is a
// double.
double SmallFloat(uint32_t bits, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const uint32_t exponent_mask = (1u << exponent_bits) - 1, mantissa_mask = (1u << mantissa_bits) - 1;
  const uint32_t exponent = (bits >> mantissa_bits) & exponent_mask, mantissa = bits & mantissa_mask;
  const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
  const int bias = static_cast<int>(exponent_mask >> 1);
  if (has_infinity && exponent == exponent_mask) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  // float8_e4m3fn spends its topmost exponent on numbers and one pattern alone on NaN.
  if (!has_infinity && exponent == exponent_mask && mantissa == mantissa_mask) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign *
         std::ldexp(mantissa | (1u << mantissa_bits), static_cast<int>(exponent) - bias - mantissa_bits);
}

uint32_t Load16(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return bits;
}

}  // namespace

int64_t ElementBytes(ElementType type) { return Row(type).bytes; }
absl::string_view ElementName(ElementType type) { return Row(type).name; }

int64_t ArchiveTensor::ElementCount() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;  // loading checked that it fits
  return count;
}

double ElementAsDouble(const ArchiveTensor& tensor, int64_t index) {
  int64_t element = tensor.offset;
  for (size_t d = tensor.shape.size(); d-- > 0;) {
    element += index % tensor.shape[d] * tensor.strides[d];
    index /= tensor.shape[d];
  }
  const std::byte* at = tensor.storage.data() + element * ElementBytes(tensor.type);
  switch (tensor.type) {
    case ElementType::kBool:
      return static_cast<double>(*at != std::byte{0});
    case ElementType::kUInt8:
      return Load<uint8_t>(at);
    case ElementType::kInt8:
      return Load<int8_t>(at);
    case ElementType::kUInt16:
      return Load<uint16_t>(at);
    case ElementType::kInt16:
      return Load<int16_t>(at);
    case ElementType::kUInt32:
      return Load<uint32_t>(at);
    case ElementType::kInt32:
      return Load<int32_t>(at);
    case ElementType::kUInt64:
      return Load<uint64_t>(at);
    case ElementType::kInt64:
      return Load<int64_t>(at);
    case ElementType::kFloat8E4M3:
      return SmallFloat(static_cast<uint32_t>(*at), 4, 3, /*has_infinity=*/false);
    case ElementType::kFloat8E5M2:
      return SmallFloat(static_cast<uint32_t>(*at), 5, 2, /*has_infinity=*/true);
    case ElementType::kFloat16:
      return SmallFloat(Load16(at), 5, 10, /*has_infinity=*/true);
    case ElementType::kBFloat16:
      return SmallFloat(Load16(at), 8, 7, /*has_infinity=*/true);
    case ElementType::kFloat32:
      return Load<float>(at);
    case ElementType::kFloat64:
      return Load<double>(at);
    case ElementType::kComplex64:
      return Load<float>(at);
    case ElementType::kComplex128:
      return Load<double>(at);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace eigsvc
