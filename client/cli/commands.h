// The commands. Each Add function declares one subcommand with its flags; parsing it sets `chosen` to what it
// does.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "client/cli/session.h"

namespace CLI {
class App;
}

namespace eigsvc::cli {

using Command = std::function<absl::Status(Session&)>;

void AddAnalyzeCommand(CLI::App& app, Command& chosen);
void AddTrainCommand(CLI::App& app, Command& chosen);
void AddModelsCommand(CLI::App& app, Command& chosen);
void AddTasksCommand(CLI::App& app, Command& chosen);
void AddRecipesCommand(CLI::App& app, Command& chosen);
void AddCheckpointsCommand(CLI::App& app, Command& chosen);
void AddInspectCommand(CLI::App& app, Command& chosen);
void AddJobsCommand(CLI::App& app, Command& chosen);
void AddServerCommand(CLI::App& app, Command& chosen);

}  // namespace eigsvc::cli
