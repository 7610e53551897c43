// Any bytes as the messages that clients send: each parses or not, and one that parses is taken or refused
// with a message in UTF-8, which gRPC demands of it. The first byte picks the message.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "eigsvc/v1/analysis_service.pb.h"
#include "eigsvc/v1/catalog_service.pb.h"
#include "eigsvc/v1/training_service.pb.h"
#include "models/base/utf8.h"
#include "server/jobs/page_token.h"
#include "server/jobs/spec_checks.h"
#include "server/plane/plane_target.h"
#include "server/store/names.h"

namespace eigsvc {
namespace {

// A catalog of one family and one task, so that names are looked up.
const Known& TheKnown() {
  static const auto* const catalog = [] {
    auto* made = new worker::v1::GetCatalogResponse;
    made->add_models()->set_name("mamba2");
    made->add_tasks()->set_name("mqar");
    return made;
  }();
  static const auto* const known = new Known{{"cpu", "cuda:0"}, catalog};
  return *known;
}

void Expect(const absl::Status& status) {
  if (!status.ok() && (status.message().empty() || !CheckUtf8(status.message()).ok())) std::abort();
}

template <typename Message, typename Check>
void Try(const std::string& bytes, const Check& check) {
  Message message;
  if (message.ParseFromString(bytes)) Expect(check(message));
}

void TryMessage(uint8_t which, const std::string& bytes) {
  static const auto* const tokens = new PageTokens;
  switch (which % 8) {
    case 0:
      return Try<v1::AnalyzeRequest>(
          bytes, [](const auto& request) { return CheckSpec(request.spec(), TheKnown()); });
    case 1:
      return Try<v1::TrainRequest>(bytes,
                                   [](const auto& request) { return CheckSpec(request.spec(), TheKnown()); });
    case 2:
      return Try<v1::InspectCheckpointRequest>(
          bytes, [](const auto& request) { return CheckCheckpoint(request.checkpoint(), TheKnown()); });
    case 3:
      return Try<v1::LoadModelRequest>(bytes, [](const auto& request) {
        const absl::Status status = CheckCheckpoint(request.checkpoint(), TheKnown());
        return status.ok() ? CheckDtype(request.dtype()) : status;
      });
    case 4:
      return Try<v1::ListAnalysesRequest>(bytes, [](const auto& request) {
        if (tokens->Read("analyses", request.page_token()).ok()) std::abort();  // none was given
        return PageSize(request.page_size()).status();
      });
    case 5:
      Expect(CheckRelativeName(bytes));
      Expect(CheckBareName(bytes));
      return Expect(CheckDigest(bytes));
    case 6:
      return Expect(ParsePlaneTarget(bytes).status());
    default:
      if (CheckUtf8(bytes).ok()) Expect(CheckDevice(bytes, TheKnown()));  // a proto's string is UTF-8
  }
}

}  // namespace
}  // namespace eigsvc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  eigsvc::TryMessage(data[0], std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
