// CLI11 splits the command line into flags and their texts; what the texts mean is said once, in flags.cc,
// and holds for the environment alike.
#include "server/config/config.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <map>
#include <set>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "server/config/address.h"
#include "server/config/flags.h"

namespace eigsvc {
namespace {

std::string HelpText() {
  std::string text =
      "eigsvcd: serves eigenvalue distributions of sequence models over gRPC.\n"
      "Usage: eigsvcd [FLAGS]\n"
      "A flag wins over its environment variable, which wins over the default.\n\n";
  for (const Flag& flag : Flags()) {
    const std::string left = flag.value.empty() ? absl::StrCat("--[no-]", flag.name)
                                                : absl::StrCat("--", flag.name, " ", flag.value);
    std::string fallback = flag.default_text;
    if (fallback.empty()) {
      const nlohmann::ordered_json value = flag.get(ServerConfig());
      fallback = value.is_array() ? absl::StrJoin(value.get<std::vector<std::string>>(), ",") : value.dump();
    }
    absl::StrAppend(&text, "  ", left, "\n      ", flag.meaning, "\n      Default: ", fallback,
                    ". Environment: ", flag.environment(), ".\n");
  }
  absl::StrAppend(&text, "  --print-config\n      Print the resolved configuration as JSON and exit.\n",
                  "  --version\n      Print the version and exit.\n",
                  "  -h, --help\n      Print this and exit.\n");
  return text;
}

// What the command line holds, before any meaning.
struct CommandLine {
  std::map<std::string, std::string> texts;  // by flag name
  bool print_config = false, help = false, version = false;
};

absl::Status CheckNothingLeft(const std::vector<std::string>& left) {
  for (const std::string& argument : left) {
    if (!absl::StartsWith(argument, "-")) continue;
    std::vector<std::string> known = {"--help", "--version", "--print-config"};
    for (const Flag& flag : Flags()) known.push_back(absl::StrCat("--", flag.name));
    const absl::Status unknown = UnknownName("flag", argument.substr(0, argument.find('=')), known);
    return absl::InvalidArgumentError(unknown.message());
  }
  if (left.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("unexpected argument \"", left.front(), "\"; eigsvcd takes flags only, see --help"));
}

absl::StatusOr<CommandLine> Split(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  app.add_flag("-h,--help", line.help);
  app.add_flag("--version", line.version);
  app.add_flag("--print-config", line.print_config);
  for (const Flag& flag : Flags()) {
    if (flag.value.empty()) {
      app.add_flag(absl::StrCat("--", flag.name, "{true},--no-", flag.name, "{false}"));
    } else {
      app.add_option(absl::StrCat("--", flag.name))->type_name(flag.value);
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const std::exception& error) {  // CLI::Error; std::stoll of "--help=x" comes through as it is
    return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see --help"));
  }
  for (const Flag& flag : Flags()) {
    const CLI::Option* option = app.get_option(absl::StrCat("--", flag.name));
    if (option->count() > 0) line.texts[flag.name] = absl::StrJoin(option->results(), ",");
  }
  EIGSVC_RETURN_IF_ERROR(CheckNothingLeft(app.remaining()));
  return line;
}

absl::StatusOr<std::string> DefaultStateDir() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return absl::StrCat(state, "/eigsvc");
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return absl::StrCat(home, "/.local/state/eigsvc");
  }
  return absl::InvalidArgumentError("--state-dir: neither XDG_STATE_HOME nor HOME is set; name a directory");
}

absl::StatusOr<std::string> DefaultWorkerBinary() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  const absl::string_view self(path, length > 0 ? static_cast<size_t>(length) : 0);
  if (self.empty()) {
    return absl::InvalidArgumentError("--worker-binary: /proc/self/exe cannot be read; name the file");
  }
  return absl::StrCat(self.substr(0, self.rfind('/')), "/eigsvc-worker");
}

}  // namespace

absl::StatusOr<ParsedConfig> ParseServerConfig(int argc, const char* const* argv) {
  EIGSVC_ASSIGN_OR_RETURN(CommandLine line, Split(argc, argv));
  ParsedConfig parsed;
  if (line.help) parsed.exit_text = HelpText();
  if (line.version) parsed.exit_text = "eigsvcd " EIGSVC_VERSION "\n";
  if (!parsed.exit_text.empty()) return parsed;

  ServerConfig& config = parsed.config;
  config.print_config = line.print_config;
  std::set<std::string> given;
  for (const Flag& flag : Flags()) {
    std::string source = absl::StrCat("--", flag.name);
    std::string text;
    if (auto it = line.texts.find(flag.name); it != line.texts.end()) {
      text = it->second;
    } else if (const char* variable = std::getenv(flag.environment().c_str()); variable != nullptr) {
      source = flag.environment();
      text = variable;
    } else {
      continue;
    }
    given.insert(flag.name);
    EIGSVC_RETURN_IF_ERROR(Annotate(flag.set(text, &config), source));
  }

  if (config.private_server && given.count("http-listen") == 0) config.http_listen.clear();
  if (config.private_server && !config.http_listen.empty()) {
    return absl::InvalidArgumentError(
        "--http-listen: a private server has no HTTP port; drop it or --private-server");
  }
  EIGSVC_RETURN_IF_ERROR(Annotate(CheckListenAddress(config.listen, true, config.allow_remote), "--listen"));
  if (!config.http_listen.empty()) {
    EIGSVC_RETURN_IF_ERROR(
        Annotate(CheckListenAddress(config.http_listen, false, config.allow_remote), "--http-listen"));
  }
  if (config.state_dir.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(config.state_dir, DefaultStateDir());
  }
  if (config.worker_binary.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(config.worker_binary, DefaultWorkerBinary());
  }
  if (!config.scratch_dir.empty() &&
      (!config.private_server ||
       !absl::StartsWith(config.state_dir, absl::StrCat(config.scratch_dir, "/")))) {
    return absl::InvalidArgumentError(
        "--scratch-dir: it is removed at the end, so it goes with --private-server and must hold the state "
        "directory; name the directory that --state-dir is in");
  }
  return parsed;
}

std::string ConfigToJson(const ServerConfig& config) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Flag& flag : Flags()) json[flag.key()] = flag.get(config);
  // A path may hold bytes that are no UTF-8; they are shown as U+FFFD rather than thrown over.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace eigsvc
