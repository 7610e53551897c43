// The one list of flags: name, meaning, how the text is read and how the value is printed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/config/config.h"

namespace eigsvc {

struct Flag {
  std::string name;   // "queue-capacity"
  std::string value;  // what it takes, for --help: "SIZE"; empty: a switch
  std::string meaning;
  std::string default_text;  // where the default is found at start; empty: print ServerConfig's own
  std::function<absl::Status(absl::string_view, ServerConfig*)> set;
  std::function<nlohmann::ordered_json(const ServerConfig&)> get;

  std::string key() const;          // "queue_capacity"
  std::string environment() const;  // "EIGSVC_QUEUE_CAPACITY"
};

const std::vector<Flag>& Flags();

}  // namespace eigsvc
