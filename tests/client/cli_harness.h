// Runs a command line inside the test, with its streams and environment under the test's control.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace eigsvc::cli::testing {

struct CliSetup {
  std::map<std::string, std::string> env;
  bool out_is_terminal = false, err_is_terminal = false, utf8 = true;
  int columns = 100;
  int broken_after = -1;  // bytes after which stdout's reader is gone; -1: never
  std::function<void(absl::string_view)>
      on_err;  // if set, given each text written to stderr, once it is in `err`
};

struct CliResult {
  int exit_code = 0;
  std::string out, err;
};

CliResult RunCli(const std::vector<std::string>& arguments, const CliSetup& setup = {});

// A fresh directory, removed with all its content.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  const std::string& path() const { return path_; }
  // Writes a file; returns its path.
  std::string Write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path);

}  // namespace eigsvc::cli::testing
