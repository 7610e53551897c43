#include "server/config/flags.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"
#include "server/config/values.h"

namespace eigsvc {
namespace {

using Json = nlohmann::ordered_json;

// A flag whose text `parse` turns into the value of `field`.
template <typename T, typename Parse>
Flag FieldFlag(std::string name, std::string value, std::string meaning, T ServerConfig::*field,
               Parse parse) {
  return {.name = std::move(name),
          .value = std::move(value),
          .meaning = std::move(meaning),
          .set = [field, parse](absl::string_view text, ServerConfig* config) -> absl::Status {
            EIGSVC_ASSIGN_OR_RETURN(auto parsed, parse(text));
            config->*field = static_cast<T>(std::move(parsed));
            return absl::OkStatus();
          },
          .get =
              [field](const ServerConfig& config) {
                if constexpr (std::is_same_v<T, absl::Duration>) {
                  return Json(absl::FormatDuration(config.*field));
                } else {
                  return Json(config.*field);
                }
              }};
}

Flag Text(std::string name, std::string value, std::string meaning, std::string ServerConfig::*field) {
  return FieldFlag(std::move(name), std::move(value), std::move(meaning), field,
                   [](absl::string_view text) -> absl::StatusOr<std::string> { return std::string(text); });
}

Flag Switch(std::string name, std::string meaning, bool ServerConfig::*field) {
  return FieldFlag(std::move(name), "", std::move(meaning), field, ParseSwitch);
}

Flag Size(std::string name, std::string meaning, int64_t ServerConfig::*field, int64_t minimum) {
  return FieldFlag(std::move(name), "SIZE", std::move(meaning), field,
                   [minimum](absl::string_view text) { return ParseSize(text, minimum); });
}

Flag Length(std::string name, std::string meaning, absl::Duration ServerConfig::*field,
            absl::Duration minimum) {
  return FieldFlag(std::move(name), "DURATION", std::move(meaning), field, [minimum](absl::string_view text) {
    return ParseDurationFlag(text, minimum, absl::Hours(1));
  });
}

Flag Choice(std::string name, std::string meaning, std::string ServerConfig::*field,
            std::vector<std::string> choices) {
  return FieldFlag(std::move(name), "WORD", std::move(meaning), field,
                   [choices](absl::string_view text) { return ParseChoice(text, choices); });
}

Flag WithDefaultText(Flag flag, std::string text) {
  flag.default_text = std::move(text);
  return flag;
}

std::vector<Flag> MakeFlags() {
  using C = ServerConfig;
  return {
      Text("listen", "ADDRESS", "Where gRPC listens: HOST:PORT (port 0: any free one) or unix:/path.",
           &C::listen),
      Switch("allow-remote", "Listen on addresses that other machines reach. There is no authentication yet.",
             &C::allow_remote),
      WithDefaultText(Text("http-listen", "ADDRESS",
                           "Where /metrics, /livez, /readyz and pictures are: HOST:PORT; empty: nowhere.",
                           &C::http_listen),
                      absl::StrCat("\"", C().http_listen, "\"; nowhere with --private-server")),
      Text("checkpoint-root", "DIR", "Directory of the checkpoints that clients may name; empty: none.",
           &C::checkpoint_root),
      Text("data-root", "DIR", "Directory of the data that clients may name; empty: none.", &C::data_root),
      WithDefaultText(
          Text("state-dir", "DIR",
               "Uploads, trained checkpoints, kept eigenvalues, worker sockets. Created with mode 0700.",
               &C::state_dir),
          "$XDG_STATE_HOME/eigsvc or ~/.local/state/eigsvc"),
      WithDefaultText(Text("worker-binary", "FILE", "The program that owns a device.", &C::worker_binary),
                      "eigsvc-worker beside this program"),
      FieldFlag("devices", "LIST",
                "One worker each: cpu, cuda:0, cuda:1+cuda:2 (which share each analysis); auto: every CUDA "
                "device, or cpu without one.",
                &C::devices, ParseDevices),
      FieldFlag("worker-threads", "N", "CPU threads of a worker; 0: all.", &C::worker_threads,
                [](absl::string_view text) { return ParseCount(text, 0, 4096); }),
      FieldFlag("queue-capacity", "N", "Jobs that may wait; more are refused with RESOURCE_EXHAUSTED.",
                &C::queue_capacity, [](absl::string_view text) { return ParseCount(text, 1, 1000000); }),
      Size("model-memory-bytes", "Weights that a worker keeps loaded.", &C::model_memory_bytes, 1),
      Size("result-memory-bytes", "Finished jobs kept in memory.", &C::result_memory_bytes, 1),
      Size("spool-bytes", "Kept eigenvalues on disk.", &C::spool_bytes, 0),
      Size("upload-bytes", "Uploads and trained checkpoints on disk.", &C::upload_bytes, 0),
      Length("max-connection-age",
             "Clients of older connections connect again, to where their name leads then; calls go on.",
             &C::max_connection_age, absl::Seconds(1)),
      Length("lame-duck", "After SIGTERM: not ready, but still serving for so long.", &C::lame_duck,
             absl::ZeroDuration()),
      Length("drain-timeout", "Then running jobs may go on for so long before they are cancelled.",
             &C::drain_timeout, absl::ZeroDuration()),
      Length("cancel-grace", "A worker that has not stopped so long after a cancel is killed.",
             &C::cancel_grace, absl::Milliseconds(1)),
      Choice("log-level", "Least severe message logged: trace, debug, info, warning or error.", &C::log_level,
             {"trace", "debug", "info", "warning", "error"}),
      Choice("log-format", "Log lines on stderr: json, text, or auto: json unless stderr is a terminal.",
             &C::log_format, {"auto", "json", "text"}),
      Switch("reflection", "Serve gRPC reflection.", &C::reflection),
      Switch("private-server",
             "Be one client's daemon: read local paths, no HTTP port, end with the parent process.",
             &C::private_server),
      Text("scratch-dir", "DIR",
           "With --private-server: what its client made for it, removed when it ends; empty: none.",
           &C::scratch_dir),
  };
}

}  // namespace

std::string Flag::key() const { return absl::StrReplaceAll(name, {{"-", "_"}}); }
std::string Flag::environment() const { return absl::StrCat("EIGSVC_", absl::AsciiStrToUpper(key())); }

const std::vector<Flag>& Flags() {
  static const std::vector<Flag>& flags = *new std::vector<Flag>(MakeFlags());
  return flags;
}

}  // namespace eigsvc
