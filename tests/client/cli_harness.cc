#include "tests/client/cli_harness.h"

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "client/cli/exit_code.h"
#include "client/cli/interrupt.h"
#include "client/cli/run.h"

namespace eigsvc::cli::testing {

CliResult RunCli(const std::vector<std::string>& arguments, const CliSetup& setup) {
  CliResult result;
  Terminal terminal;
  terminal.write_out = [&](absl::string_view text) {
    if (setup.broken_after >= 0 && result.out.size() >= static_cast<size_t>(setup.broken_after)) {
      return SignalError(SIGPIPE, "the reader of stdout left");
    }
    result.out.append(text.data(), text.size());
    return absl::OkStatus();
  };
  terminal.write_err = [&](absl::string_view text) {
    result.err.append(text.data(), text.size());
    if (setup.on_err) setup.on_err(text);
  };
  terminal.env = [&](const std::string& name) {
    const auto found = setup.env.find(name);
    return found == setup.env.end() ? std::string() : found->second;
  };
  terminal.out_is_terminal = setup.out_is_terminal;
  terminal.err_is_terminal = setup.err_is_terminal;
  terminal.utf8 = setup.utf8;
  terminal.columns = setup.columns;
  Interrupt::Install();
  Interrupt::Reset();
  result.exit_code = RunCommandLine(arguments, terminal);
  Interrupt::Reset();
  return result;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "eigsvc_client_test.XXXXXX").string();
  path_ = mkdtemp(pattern.data());
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::Write(const std::string& name, const std::string& content) const {
  const std::string path = path_ + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

}  // namespace eigsvc::cli::testing
