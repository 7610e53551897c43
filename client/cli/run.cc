#include "client/cli/run.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/analysis_json.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/session.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc::cli {
namespace {

constexpr char kDescription[] =
    "Eigenvalue distributions of sequence models.\n"
    "Analyses a checkpoint on a task and shows how far its state transitions remember.\n";
constexpr char kExamples[] =
    "Examples:\n"
    "  eigsvc analyze --checkpoint mamba2.pt --task mqar --compare-twin 1\n"
    "  eigsvc analyze --checkpoint mamba2.pt --task mqar -o json | jq .score\n"
    "  eigsvc train --model mamba2 --task mqar --out m.safetensors\n"
    "  eigsvc inspect mamba2.pt\n"
    "Without --server or EIGSVC_SERVER a private daemon is started for the call and ended after it.\n\n";

// What the parser leaves over is a mistyped flag or command: say so, and what was meant.
absl::Status ExplainExtra(const CLI::App& app, const std::string& extra) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  const std::string where = command == &app ? "eigsvc" : absl::StrCat("eigsvc ", command->get_name());
  std::vector<std::string> known;
  if (absl::StartsWith(extra, "-")) {
    for (const CLI::App* level = command; level != nullptr; level = level->get_parent()) {
      for (const CLI::Option* option : level->get_options()) {
        for (const std::string& name : option->get_lnames()) known.push_back(absl::StrCat("--", name));
      }
    }
    const std::string name = extra.substr(0, extra.find('='));
    std::sort(known.begin(), known.end());
    known.erase(std::unique(known.begin(), known.end()), known.end());  // --help is at every level
    return UsageError(absl::StrCat(where, ": ", std::string(UnknownName("flag", name, known).message())));
  }
  for (const CLI::App* sub : command->get_subcommands([](const CLI::App*) { return true; }))
    known.push_back(sub->get_name());
  if (known.empty())
    return UsageError(absl::StrCat(where, ": unexpected argument \"", extra, "\"; see ", where, " --help"));
  return UsageError(absl::StrCat(where, ": ", std::string(UnknownName("command", extra, known).message())));
}

void AddGlobalOptions(CLI::App& app, GlobalOptions& globals) {
  app.add_option("--server", globals.server,
                 "HOST:PORT or unix:/path of an eigsvcd; default EIGSVC_SERVER, else a private one");
  app.add_option("-o,--output", globals.format, "Format of the result")
      ->check(CLI::IsMember({"table", "json", "ndjson", "csv"}))
      ->capture_default_str();
  app.add_flag("--quiet", globals.quiet, "No progress and no remarks on stderr; errors only");
  app.add_flag("-v,--verbose", globals.verbose, "The private daemon's log on stderr");
  app.add_option("--color", globals.color, "Colours: auto is on a terminal without NO_COLOR")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  app.add_option("--progress", globals.progress, "Progress on stderr: auto is bar on a terminal, else plain")
      ->check(CLI::IsMember({"auto", "bar", "plain", "json", "none"}))
      ->capture_default_str();
  app.add_option("--timeout", globals.timeout, "Ends the call, and its job, after this time: 30s, 5m")
      ->type_name("TIME");
}

// Parses; then either `text` is to be printed and all is done, or `command` to be run.
struct Parsed {
  GlobalOptions globals;
  Command command;
  std::string text;
};

// The contract's strings, like JSON's, are UTF-8.
absl::Status CheckUtf8(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    try {
      static_cast<void>(Json(argument).dump());  // strict
    } catch (const Json::exception&) {
      return UsageError(
          absl::StrCat("the argument \"", absl::CHexEscape(argument), "\" is not UTF-8; rename the file"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Parsed> Parse(const std::vector<std::string>& arguments, const Terminal& terminal) {
  EIGSVC_RETURN_IF_ERROR(CheckUtf8(arguments));
  Parsed parsed;
  CLI::App app(kDescription, "eigsvc");
  app.footer("Options for every command and the exit codes: eigsvc --help");  // commands inherit it
  app.set_version_flag("--version", "eigsvc " EIGSVC_VERSION, "Print the version");
  app.get_formatter()->column_width(34);
  AddGlobalOptions(app, parsed.globals);
  AddAnalyzeCommand(app, parsed.command);
  AddTrainCommand(app, parsed.command);
  AddModelsCommand(app, parsed.command);
  AddTasksCommand(app, parsed.command);
  AddRecipesCommand(app, parsed.command);
  AddCheckpointsCommand(app, parsed.command);
  AddInspectCommand(app, parsed.command);
  AddJobsCommand(app, parsed.command);
  AddServerCommand(app, parsed.command);
  app.footer(absl::StrCat(kExamples, ExitCodeHelp()));
  // Global options may stand anywhere: what a command does not know, it passes to the one above.
  const std::function<void(CLI::App*)> fall_through = [&](CLI::App* level) {
    for (CLI::App* sub : level->get_subcommands([](CLI::App*) { return true; })) {
      sub->fallthrough();
      fall_through(sub);
    }
  };
  fall_through(&app);

  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 takes them
  try {
    app.parse(reversed);
  } catch (const CLI::CallForVersion& version) {
    parsed.text = absl::StrCat(version.what(), "\n");
    return parsed;
  } catch (const CLI::CallForHelp&) {
    parsed.text = app.help();
    return parsed;
  } catch (const CLI::ExtrasError& error) {
    const std::vector<std::string> extras = app.remaining(true);
    return extras.empty() ? UsageError(error.what()) : ExplainExtra(app, extras.front());
  } catch (const CLI::ParseError& error) {
    return UsageError(absl::StrCat(error.what(), "; see eigsvc --help"));
  }
  parsed.globals.server_flag = !parsed.globals.server.empty();
  if (!parsed.globals.server_flag) parsed.globals.server = terminal.env("EIGSVC_SERVER");
  const CLI::App* deepest = &app;
  while (!deepest->get_subcommands().empty()) deepest = deepest->get_subcommands().front();
  if (!parsed.command) parsed.text = deepest->help();
  return parsed;
}

absl::Status Run(const std::vector<std::string>& arguments, const Terminal& terminal) {
  EIGSVC_ASSIGN_OR_RETURN(const Parsed parsed, Parse(arguments, terminal));
  if (!parsed.command) return terminal.write_out(parsed.text);
  Session session(terminal, parsed.globals);
  EIGSVC_RETURN_IF_ERROR(session.Start());
  return parsed.command(session);
}

}  // namespace

int RunCommandLine(const std::vector<std::string>& arguments, const Terminal& terminal) {
  const absl::Status status = Run(arguments, terminal);
  const std::string text = ErrorText(status);
  if (!text.empty() && !status.ok()) terminal.write_err(absl::StrCat("eigsvc: error: ", text, "\n"));
  return ExitCode(status);
}

}  // namespace eigsvc::cli
