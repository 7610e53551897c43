// gMock matchers for absl::Status and absl::StatusOr.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc::testing {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& value) {
  return value.status();
}

// EXPECT_THAT(Open(path), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no such")));
MATCHER_P2(StatusIs, code, message, "") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << "which is " << status;
  return status.code() == code &&
         ::testing::ExplainMatchResult(message, std::string(status.message()), result_listener);
}
MATCHER(IsOk, "") {
  *result_listener << "which is " << GetStatus(arg);
  return GetStatus(arg).ok();
}

}  // namespace eigsvc::testing

#define EIGSVC_ASSERT_OK(expression) ASSERT_THAT((expression), ::eigsvc::testing::IsOk())
#define EIGSVC_EXPECT_OK(expression) EXPECT_THAT((expression), ::eigsvc::testing::IsOk())
#define EIGSVC_TEST_CONCAT_INNER(a, b) a##b
#define EIGSVC_TEST_CONCAT(a, b) EIGSVC_TEST_CONCAT_INNER(a, b)
#define EIGSVC_ASSERT_OK_AND_ASSIGN(target, expression) \
  EIGSVC_ASSERT_OK_AND_ASSIGN_INNER(EIGSVC_TEST_CONCAT(eigsvc_test_result_, __LINE__), target, expression)
#define EIGSVC_ASSERT_OK_AND_ASSIGN_INNER(result, target, expression) \
  auto result = (expression);                                         \
  ASSERT_THAT(result, ::eigsvc::testing::IsOk());                     \
  target = *std::move(result)
