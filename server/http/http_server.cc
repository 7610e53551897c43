// The only file that includes Boost.Beast: its headers take as long to compile as the rest of the daemon.
#include "server/http/http_server.h"

#include <chrono>
#include <list>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using Response = http::response<http::string_body>;

constexpr uint32_t kMaxHeaderBytes = 8 << 10;

class Connection;

// Of the server's thread only, but for the options and handlers, which do not change.
struct Shared {
  HttpOptions options;
  HttpHandlers handlers;
  asio::io_context& context;
  asio::thread_pool& drawers;
  int connections = 0, pictures = 0;  // that are open, that are being drawn or wait for it
  std::list<Connection*> waiting;     // for their peers to send or to take something, the longest first
};

Response Answer(http::status status, unsigned version, std::string body) {
  Response response(status, version);
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  response.set(http::field::cache_control, "no-store");
  response.body() = std::move(body);
  return response;
}

http::status ToHttp(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return http::status::bad_request;
    case absl::StatusCode::kNotFound:
      return http::status::not_found;
    case absl::StatusCode::kFailedPrecondition:
      return http::status::conflict;
    default:
      return http::status::internal_server_error;
  }
}

bool IsV1(const Shared& shared, beast::string_view target) {
  return target.substr(0, 4) == "/v1/" && shared.handlers.v1 != nullptr;
}

// Of a request for something under /v1/, whose handler said `found`.
Response AnswerV1(absl::StatusOr<HttpHandlers::Text> found, unsigned version) {
  if (!found.ok()) {
    return Answer(ToHttp(found.status().code()), version, absl::StrCat(found.status().message(), "\n"));
  }
  Response response = Answer(http::status::ok, version, std::move(found->body));
  response.set(http::field::content_type, found->content_type);
  response.set("X-Content-Type-Options", "nosniff");
  return response;
}

// Of all else.
Response Handle(const Shared& shared, const http::request<http::empty_body>& request) {
  const beast::string_view target = request.target().substr(0, request.target().find('?'));
  const auto answer = [&](http::status status, std::string body) {
    return Answer(status, request.version(), std::move(body));
  };
  if (!IsV1(shared, target) && target != "/metrics" && target != "/livez" && target != "/readyz") {
    return answer(http::status::not_found, "not found; there are /metrics, /livez, /readyz and /v1/\n");
  }
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    Response response = answer(http::status::method_not_allowed, "only GET and HEAD\n");
    response.set(http::field::allow, "GET, HEAD");
    return response;
  }
  if (target == "/metrics") {
    const beast::string_view accept = request[http::field::accept];
    HttpHandlers::Text text = shared.handlers.metrics({accept.data(), accept.size()});
    Response response = answer(http::status::ok, std::move(text.body));
    response.set(http::field::content_type, text.content_type);
    response.set(http::field::vary, "Accept");
    return response;
  }
  if (target == "/livez") return answer(http::status::ok, "ok\n");
  const std::string reason = shared.handlers.not_ready_reason();
  return reason.empty() ? answer(http::status::ok, "ok\n")
                        : answer(http::status::service_unavailable, reason + "\n");
}

// One connection: read a request, answer it, read the next. Owned by the operation it waits for.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, std::shared_ptr<Shared> shared)
      : stream_(std::move(socket)), shared_(std::move(shared)) {
    ++shared_->connections;
  }
  ~Connection() {
    StopWaiting();
    --shared_->connections;
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // What it waits for ends with an error, and so does it.
  void Drop() {
    StopWaiting();
    stream_.close();
  }

  void ReadRequest() {
    StartWaiting();
    parser_.emplace();
    parser_->header_limit(kMaxHeaderBytes);
    parser_->body_limit(uint64_t{0});
    // One limit for the whole request: sending a byte now and then does not stretch it.
    stream_.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(shared_->options.timeout)));
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->OnRequest(error); });
  }

 private:
  void StartWaiting() { place_ = shared_->waiting.insert(shared_->waiting.end(), this); }
  void StopWaiting() {
    if (place_.has_value()) shared_->waiting.erase(*place_);
    place_.reset();
  }

  void OnRequest(beast::error_code error) {
    StopWaiting();
    if (!error) {
      const http::request<http::empty_body>& request = parser_->get();
      // Of a HEAD, all but the body: Content-Length tells what GET would send.
      head_ = request.method() == http::verb::head;
      if (IsV1(*shared_, request.target()) && (head_ || request.method() == http::verb::get)) return Draw();
      response_ = Handle(*shared_, request);
      return WriteResponse(request.keep_alive());
    }
    head_ = false;
    if (error == http::error::body_limit) {
      response_ = Answer(http::status::payload_too_large, 11, "a request here has no body\n");
    } else if (error == http::error::header_limit) {
      response_ = Answer(http::status::request_header_fields_too_large, 11, "the header is too large\n");
    } else if (error.category() == http::make_error_code(http::error::bad_target).category() &&
               error != http::error::end_of_stream && error != http::error::partial_message) {
      response_ =
          Answer(http::status::bad_request, 11, absl::StrCat("no valid request: ", error.message(), "\n"));
    } else {
      return;  // the peer left or was too slow
    }
    WriteResponse(/*keep_alive=*/false);
  }

  // On another thread, as it takes long: probes and scrapes are answered meanwhile.
  void Draw() {
    const unsigned version = parser_->get().version();
    const bool keep_alive = parser_->get().keep_alive();
    if (shared_->pictures >= shared_->options.max_pictures) {
      response_ =
          Answer(http::status::service_unavailable, version, "too many pictures at once; try again\n");
      response_.set(http::field::retry_after, "1");
      return WriteResponse(keep_alive);
    }
    ++shared_->pictures;
    const beast::string_view asked = parser_->get().target();
    std::string target(asked.data(), asked.size());
    stream_.expires_never();
    asio::post(shared_->drawers, [self = shared_from_this(), version, keep_alive,
                                  target = std::move(target)]() mutable {
      Response response = AnswerV1(self->shared_->handlers.v1(target), version);
      asio::io_context& context = self->shared_->context;
      asio::post(context, [self = std::move(self), keep_alive, response = std::move(response)]() mutable {
        --self->shared_->pictures;
        self->response_ = std::move(response);
        self->WriteResponse(keep_alive);
      });
    });
  }

  void WriteResponse(bool keep_alive) {
    StartWaiting();
    response_.keep_alive(keep_alive);
    response_.prepare_payload();
    serializer_.emplace(response_);
    stream_.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(shared_->options.timeout)));
    auto written = [self = shared_from_this(), keep_alive](beast::error_code error, size_t) {
      self->StopWaiting();
      if (error) return;
      if (keep_alive) return self->ReadRequest();
      beast::error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    };
    if (head_) {
      http::async_write_header(stream_, *serializer_, std::move(written));
    } else {
      http::async_write(stream_, *serializer_, std::move(written));
    }
  }

  beast::tcp_stream stream_;
  const std::shared_ptr<Shared> shared_;
  beast::flat_buffer buffer_{kMaxHeaderBytes * 2};
  std::optional<http::request_parser<http::empty_body>> parser_;
  Response response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
  bool head_ = false;
  std::optional<std::list<Connection*>::iterator> place_;  // in shared_->waiting
};

absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  uint32_t port = 0;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  beast::error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (colon == std::string::npos || error || !absl::SimpleAtoi(listen.substr(colon + 1), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("HTTP address \"", listen, "\" is not ADDRESS:PORT, as 127.0.0.1:9464 or [::1]:9464"));
  }
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(HttpOptions options, HttpHandlers handlers)
      : shared_(std::make_shared<Shared>(
            Shared{std::move(options), std::move(handlers), context_, drawers_, 0, 0, {}})),
        acceptor_(context_) {}

  ~HttpServerImpl() override {
    context_.stop();
    if (thread_.joinable()) thread_.join();
    drawers_.stop();  // what is being drawn is finished, the rest is not begun
    drawers_.join();
  }

  absl::Status Listen() {
    EIGSVC_ASSIGN_OR_RETURN(const tcp::endpoint endpoint, ParseEndpoint(shared_->options.listen));
    beast::error_code error;
    acceptor_.open(endpoint.protocol(), error);
    // Past connections in TIME_WAIT do not block a restart; a live listener still does.
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(absl::StrCat("cannot listen for HTTP on ", shared_->options.listen, ": ",
                                                 error.message(),
                                                 "; choose another address with --http-listen"));
    }
    port_ = acceptor_.local_endpoint(error).port();
    Accept();
    thread_ = std::thread([this] { context_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

 private:
  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      // At the cap whoever has kept the server waiting longest makes room, so that sockets that lie idle keep
      // no scrape and no probe out. Where all are being drawn for, the new one is closed at once, which a
      // probe reports better than a wait.
      if (!error && (shared_->connections < shared_->options.max_connections || DropOne())) {
        std::make_shared<Connection>(std::move(socket), shared_)->ReadRequest();
      }
      if (!error) return Accept();
      // Out of file descriptors, most likely: accepting again at once would spin.
      retry_.expires_after(std::chrono::milliseconds(100));
      retry_.async_wait([this](beast::error_code stopped) {
        if (!stopped) Accept();
      });
    });
  }

  bool DropOne() {
    if (shared_->waiting.empty()) return false;
    shared_->waiting.front()->Drop();
    return true;
  }

  asio::io_context context_{1};
  asio::thread_pool drawers_{1};  // after the context, in which the sockets of what it holds live
  const std::shared_ptr<Shared> shared_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_{context_};
  int port_ = 0;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpOptions options, HttpHandlers handlers) {
  auto server = std::make_unique<HttpServerImpl>(std::move(options), std::move(handlers));
  EIGSVC_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace eigsvc
