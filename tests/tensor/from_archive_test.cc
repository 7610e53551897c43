#include "models/tensor/from_archive.h"

#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/tensor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

// The values as raw bytes after `shift` bytes of padding, owned by the tensor.
template <typename T>
ArchiveTensor Make(ElementType type, std::vector<T> values, std::vector<int64_t> shape,
                   std::vector<int64_t> strides, size_t shift = 0) {
  auto bytes = std::make_shared<std::vector<std::byte>>(shift + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes->data() + shift, values.data(), values.size() * sizeof(T));
  ArchiveTensor tensor;
  tensor.type = type;
  tensor.shape = std::move(shape);
  tensor.strides = std::move(strides);
  tensor.storage = absl::MakeConstSpan(*bytes).subspan(shift);
  tensor.owner = bytes;
  return tensor;
}

TEST(FromArchiveTest, ReadsStridedViewsInPlace) {
  ArchiveTensor source = Make<float>(ElementType::kFloat32, {9, 1, 2, 3, 4, 5, 6}, {2, 3}, {1, 2});
  source.offset = 1;
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor tensor, TensorFromArchive(source));
  EXPECT_EQ(static_cast<const void*>(tensor.const_data_ptr()), source.storage.data() + 4);
  EXPECT_TRUE(at::equal(tensor, at::tensor({1.f, 3.f, 5.f, 2.f, 4.f, 6.f}).view({2, 3})));
}

TEST(FromArchiveTest, KeepsTheBytesAlive) {
  ArchiveTensor source = Make<double>(ElementType::kFloat64, {1, 2}, {2}, {1});
  const std::weak_ptr<const void> alive = source.owner;
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor tensor, TensorFromArchive(source));
  source = ArchiveTensor();
  EXPECT_FALSE(alive.expired());
  tensor = at::Tensor();
  EXPECT_TRUE(alive.expired());
}

TEST(FromArchiveTest, CopiesUnalignedData) {
  const ArchiveTensor source = Make<double>(ElementType::kFloat64, {1, 2, 3, 4}, {2, 2}, {1, 2}, /*shift=*/3);
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor tensor, TensorFromArchive(source));
  EXPECT_NE(static_cast<const void*>(tensor.const_data_ptr()), source.storage.data());
  EXPECT_TRUE(at::equal(tensor, at::tensor({1., 3., 2., 4.}, c10::kDouble).view({2, 2})));
}

TEST(FromArchiveTest, MapsEveryElementTypeBothWays) {
  for (int t = 0; t <= static_cast<int>(ElementType::kComplex128); ++t) {
    const ElementType type = static_cast<ElementType>(t);
    const ArchiveTensor source = Make<std::byte>(type, std::vector<std::byte>(64), {2}, {1});
    EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor tensor, TensorFromArchive(source));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const ElementType back, ElementTypeOf(tensor));
    EXPECT_EQ(back, type);
  }
  EXPECT_THAT(ElementTypeOf(at::empty({1}, c10::kComplexHalf)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ComplexHalf")));
}

TEST(FromArchiveTest, ReadsEightBitFloats) {
  // 0x38 is 1 in e4m3 (exponent bias 7), 0x3c is 1 in e5m2 (bias 15).
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor e4m3,
                              TensorFromArchive(Make<uint8_t>(ElementType::kFloat8E4M3, {0x38}, {1}, {1})));
  EXPECT_EQ(e4m3.to(c10::kFloat).item<float>(), 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor e5m2,
                              TensorFromArchive(Make<uint8_t>(ElementType::kFloat8E5M2, {0x3c}, {1}, {1})));
  EXPECT_EQ(e5m2.to(c10::kFloat).item<float>(), 1);
}

TEST(FromArchiveTest, EmptyAndScalarShapesWork) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor empty,
                              TensorFromArchive(Make<float>(ElementType::kFloat32, {}, {3, 0}, {0, 1})));
  EXPECT_EQ(empty.sizes(), (std::vector<int64_t>{3, 0}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor scalar,
                              TensorFromArchive(Make<float>(ElementType::kFloat32, {7}, {}, {})));
  EXPECT_EQ(scalar.item<float>(), 7);
}

TEST(FromArchiveTest, ViewsOutsideTheStorageAreDataLoss) {
  for (ArchiveTensor source : {Make<float>(ElementType::kFloat32, {1, 2}, {3}, {1}),
                               Make<float>(ElementType::kFloat32, {1, 2}, {2}, {int64_t{1} << 62}),
                               Make<float>(ElementType::kFloat32, {1, 2}, {2}, {-1}),
                               Make<float>(ElementType::kFloat32, {1, 2}, {2}, {})}) {
    EXPECT_THAT(TensorFromArchive(source), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("outside")));
  }
}

}  // namespace
}  // namespace eigsvc
