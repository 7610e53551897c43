#include "models/tensor/torch_call.h"

#include <new>
#include <stdexcept>
#include <string>

#include "ATen/core/Tensor.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/tensor/device.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

TEST(CallTorchTest, ReturnsTheBodysValueOrStatus) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const int plain, CallTorch("sum", [] { return 3; }));
  EXPECT_EQ(plain, 3);
  const auto refused = CallTorch("sum", []() -> absl::StatusOr<int> { return absl::NotFoundError("no"); });
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kNotFound, "no"));
  EIGSVC_EXPECT_OK(CallTorch("nothing", [] { return absl::OkStatus(); }));
}

TEST(CallTorchTest, AShapeMismatchIsInternalWithOneLine) {
  const auto result = CallTorch("layer 3", [] { return at::matmul(at::ones({2, 3}), at::ones({4, 5})); });
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kInternal, AllOf(HasSubstr("layer 3: "), Not(HasSubstr("\n")))));
}

TEST(CallTorchTest, OutOfMemoryIsResourceExhausted) {
  const auto huge = CallTorch("layer 0", [] { return at::ones({int64_t{1} << 46}); });
  EXPECT_THAT(huge, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("layer 0")));
  const auto thrown = CallTorch("x", []() -> int { throw std::bad_alloc(); });
  EXPECT_THAT(thrown, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("smaller")));
}

TEST(CallTorchTest, ACudaErrorIsMarkedSticky) {
  const auto result =
      CallTorch("x", []() -> int { throw std::runtime_error("CUDA error: device-side assert"); });
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kInternal, HasSubstr("device-side assert")));
  EXPECT_TRUE(result.status().GetPayload(kStickyCudaErrorUrl).has_value());
  const auto other = CallTorch("x", []() -> int { throw 3; });
  EXPECT_THAT(other, StatusIs(absl::StatusCode::kInternal, HasSubstr("unknown type")));
  EXPECT_FALSE(other.status().GetPayload(kStickyCudaErrorUrl).has_value());
}

TEST(DeviceTest, NamesAreReadAndBadOnesRefused) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const c10::Device cpu, ParseDevice("cpu"));
  EXPECT_EQ(cpu, c10::Device(c10::kCPU));
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:300", "cuda0", "CPU"}) {
    EXPECT_THAT(ParseDevice(name), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("known: cpu")))
        << name;
  }
  EXPECT_THAT(ParseDevice("cuda:99"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("CUDA device")));
}

TEST(DeviceTest, DtypeNamesRoundTrip) {
  for (const char* name : {"float32", "float64", "bfloat16", "float16"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const c10::ScalarType type, ParseDtype(name));
    EXPECT_EQ(DtypeName(type), name);
  }
  EXPECT_THAT(ParseDtype("fp32"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("float32")));
}

}  // namespace
}  // namespace eigsvc
