// HttpServer: /metrics, /livez and /readyz for Prometheus and probes, and pictures under /v1/ for dashboards.
// Probes and metrics are answered on one thread, asynchronously; pictures are drawn one after the other on a
// second. Bounded: at the cap of connections the one that has waited for its peer the longest is closed,
// beyond that of pictures the answer is 503 with Retry-After, a request must arrive whole within a time
// limit, and none may carry a body. It knows no job: what it shows are functions.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace eigsvc {

struct HttpOptions {
  std::string listen = "127.0.0.1:0";  // "HOST:PORT" or "[IPv6]:PORT"; the host is an address or "localhost"
  int max_connections = 64;
  int max_pictures = 16;  // drawn or waiting for it
  // For a whole request, also the wait between two of one connection, and for a whole response.
  absl::Duration timeout = absl::Seconds(10);
};

// Called on the server's threads; must not block on a job.
struct HttpHandlers {
  struct Text {
    std::string content_type, body;
  };
  std::function<Text(absl::string_view accept)> metrics;  // in the format that the Accept header prefers
  std::function<std::string()> not_ready_reason;          // empty: ready
  // Of everything under /v1/, on the thread that draws; `target` is the request's, with its query. Empty:
  // there is nothing.
  std::function<absl::StatusOr<Text>(absl::string_view target)> v1;
};

class HttpServer {
 public:
  virtual ~HttpServer() = default;  // closes every connection
  // UNAVAILABLE naming the address when it cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpOptions options, HttpHandlers handlers);
  virtual int port() const = 0;
};

}  // namespace eigsvc
