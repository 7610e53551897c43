#include "server/log.h"

#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "models/base/utf8.h"
#include "nlohmann/json.hpp"
#include "spdlog/formatter.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace eigsvc {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxLineBytes = 8192;
bool log_json = false;  // set by InitLog, before there are threads

absl::string_view View(spdlog::string_view_t text) { return {text.data(), text.size()}; }

// Marks a message that is a JSON object already: its fields join those of the line.
constexpr absl::string_view kFields = "\x01";

class JsonFormatter : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    Json line;
    line["time"] =
        absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::FromChrono(message.time), absl::UTCTimeZone());
    line["level"] = std::string(View(spdlog::level::to_string_view(message.level)));
    const absl::string_view text = View(message.payload);
    if (text.substr(0, kFields.size()) == kFields) {
      line.update(
          Json::parse(text.begin() + kFields.size(), text.end(), nullptr, /*allow_exceptions=*/false));
    } else {
      line["message"] = ToUtf8(text, kMaxLineBytes);
    }
    const std::string dumped = absl::StrCat(line.dump(-1, ' ', false, Json::error_handler_t::replace), "\n");
    out.append(dumped.data(), dumped.data() + dumped.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }
};

}  // namespace

void InitLog(const ServerConfig& config) {
  log_json = config.log_format == "json" || (config.log_format == "auto" && isatty(STDERR_FILENO) == 0);
  auto logger =
      std::make_shared<spdlog::logger>("eigsvcd", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (log_json) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  }
  logger->set_level(spdlog::level::from_str(config.log_level));
  spdlog::set_default_logger(std::move(logger));
}

void LogRpc(const RpcRecord& record) {
  const double seconds = absl::ToDoubleSeconds(record.duration);
  if (!log_json) {
    spdlog::info("rpc {} {} {:.3f} s {}{}{}", std::string(record.method), std::string(record.code), seconds,
                 record.peer, record.message.empty() ? "" : ": ", record.message);
    return;
  }
  Json fields = {{"message", "rpc"},
                 {"method", std::string(record.method)},
                 {"code", std::string(record.code)},
                 {"seconds", seconds},
                 {"peer", record.peer}};
  if (!record.message.empty()) fields["error"] = record.message;
  spdlog::info("{}{}", std::string(kFields), fields.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace eigsvc
