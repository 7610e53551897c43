#include "models/tensor/torch_call.h"

#include <exception>
#include <new>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "c10/util/Exception.h"

namespace eigsvc {
namespace {

absl::Status FromMessage(absl::string_view what, absl::string_view message) {
  const absl::string_view first_line = message.substr(0, message.find('\n'));
  const std::string text = absl::StrCat(what, ": ", first_line);
  for (const absl::string_view sign :
       {"out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"}) {
    if (absl::StrContains(message, sign)) {
      return absl::ResourceExhaustedError(absl::StrCat(text, "; use a smaller batch, chunk or model"));
    }
  }
  absl::Status status = absl::InternalError(text);
  // After such an error every later CUDA call of the process fails too.
  if (absl::StrContains(message, "CUDA error:"))
    status.SetPayload(kStickyCudaErrorUrl, absl::Cord(first_line));
  return status;
}

}  // namespace

absl::Status CallTorchStatus(absl::string_view what, absl::FunctionRef<absl::Status()> body) {
  try {
    return body();
  } catch (const c10::OutOfMemoryError& error) {
    return FromMessage(what, absl::StrCat("out of memory: ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return FromMessage(what, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return FromMessage(what, "out of memory");
  } catch (const std::exception& error) {
    return FromMessage(what, error.what());
  } catch (...) {
    return FromMessage(what, "an exception of unknown type");
  }
}

}  // namespace eigsvc
