// SPDX-License-Identifier: Apache-2.0
#include "net/archive_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <openssl/crypto.h>

#include <array>
#include <atomic>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "net/conditional_request.h"
#include "net/s3_signature.h"
#include "net/served_folder.h"

namespace kvpack {
namespace {

constexpr uint64_t kSendSliceBytes = 256 * 1024;
constexpr auto kIdleSeconds = 5;        // what a kept connection may be silent; also how long stop() can take
constexpr size_t kNoLimit = 1'000'000;  // requests on one connection
constexpr const char* kMetricsPath = "/metrics";

std::string html_escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const bool special = std::string_view("<>&\"'").find(c) != std::string_view::npos;
    escaped += special ? fmt::format("&#{};", static_cast<int>(c)) : std::string(1, c);
  }
  return escaped;
}

std::string listing_html(std::string_view path, const std::vector<ServedEntry>& entries) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<h1>{0}</h1>\n<table>\n", html_escaped(path));
  for (const ServedEntry& entry : entries) {
    const char* slash = entry.is_folder ? "/" : "";
    html += fmt::format("<tr><td><a href=\"{}{}\">{}{}</a></td><td align=\"right\">{}</td></tr>\n",
                        percent_encode(entry.name), slash, html_escaped(entry.name), slash,
                        entry.is_folder ? "" : fmt::format("{}", entry.bytes));
  }
  return html + "</table>\n";
}

std::string listing_json(const std::vector<ServedEntry>& entries) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ServedEntry& entry : entries) {
    list.push_back({{"name", entry.name}, {"folder", entry.is_folder}, {"bytes", entry.bytes}});
  }
  // Names need not be UTF-8, JSON does.
  return list.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

// Both sides hashed first, so that neither contents nor length show in the time it takes.
bool same_secret(const std::string& a, const std::string& b) {
  const std::string hash_a = sha256_hex(as_byte_span(a));
  const std::string hash_b = sha256_hex(as_byte_span(b));
  return CRYPTO_memcmp(hash_a.data(), hash_b.data(), hash_a.size()) == 0;
}

class Metrics {
 public:
  void count(int status) {
    const std::lock_guard lock(mutex_);
    ++requests_[status];
  }
  void add_sent(uint64_t bytes) { sent_bytes_ += bytes; }
  std::string text() {
    const std::lock_guard lock(mutex_);
    std::string text =
        "# HELP kvpack_http_requests_total Requests answered, by status.\n# TYPE kvpack_http_requests_total counter\n";
    for (const auto& [status, count] : requests_) {
      text += fmt::format("kvpack_http_requests_total{{code=\"{}\"}} {}\n", status, count);
    }
    return text + fmt::format(
                      "# HELP kvpack_sent_bytes_total Bytes of files sent.\n# TYPE kvpack_sent_bytes_total counter\n"
                      "kvpack_sent_bytes_total {}\n",
                      sent_bytes_.load());
  }

 private:
  std::mutex mutex_;
  std::map<int, uint64_t> requests_;
  std::atomic<uint64_t> sent_bytes_ = 0;
};

}  // namespace

class ArchiveServer::Implementation {
 public:
  Implementation(const ServerOptions& options, ServedFolder folder) : options_(options), folder_(std::move(folder)) {}

  Status bind();
  Status run();
  void stop();
  int port() const { return port_; }

 private:
  void answer(const httplib::Request& request, httplib::Response& response);
  void answer_file(const httplib::Request& request, httplib::Response& response, ServedFile file);
  void answer_folder(const httplib::Request& request, httplib::Response& response, const ServedFile& folder);
  bool is_authorized(const httplib::Request& request) const;
  bool send_slice(const ServedFile& file, uint64_t offset, uint64_t bytes, httplib::DataSink& sink);

  ServerOptions options_;
  ServedFolder folder_;
  httplib::Server server_;
  Metrics metrics_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> ended_ = false;
  std::atomic<std::chrono::steady_clock::time_point> drained_at_ = std::chrono::steady_clock::time_point::max();
  int port_ = 0;
};

Status ArchiveServer::Implementation::bind() {
  server_.new_task_queue = [threads = options_.threads] {
    return new httplib::ThreadPool(static_cast<size_t>(threads));
  };
  server_.set_keep_alive_max_count(kNoLimit);
  server_.set_keep_alive_timeout(kIdleSeconds);
  server_.set_read_timeout(10);
  server_.set_write_timeout(30);
  server_.set_payload_max_length(4096);  // there is nothing to upload
  server_.set_tcp_nodelay(true);
  // Instead of httplib's SO_REUSEPORT, with which two servers would share a port unnoticed.
  server_.set_socket_options([](socket_t socket) {
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  });
  server_.Get(".*", [this](const auto& request, auto& response) { answer(request, response); });
  server_.set_logger([this](const auto&, const auto& response) { metrics_.count(response.status); });
  server_.set_exception_handler([](const auto&, auto& response, const std::exception_ptr&) { response.status = 500; });
  if (options_.port == 0) {
    port_ = server_.bind_to_any_port(options_.bind);
  } else if (server_.bind_to_port(options_.bind, options_.port)) {
    port_ = options_.port;
  }
  if (port_ > 0) return {};
  return io_error(fmt::format("cannot listen on {} port {}: in use, not allowed, or no address of this machine",
                              options_.bind, options_.port));
}

Status ArchiveServer::Implementation::run() {
  std::thread hasher([this] { folder_.hash_all(stopping_); });
  const bool served = server_.listen_after_bind();
  ended_ = true;
  const bool asked_to_stop = stopping_.exchange(true);
  hasher.join();
  if (served || asked_to_stop) return {};
  return io_error("the server stopped accepting connections");
}

void ArchiveServer::Implementation::stop() {
  drained_at_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int>(options_.drain_s * 1000));
  stopping_ = true;
  // httplib forgets a stop that comes before it runs.
  while (!server_.is_running() && !ended_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server_.stop();
}

bool ArchiveServer::Implementation::is_authorized(const httplib::Request& request) const {
  if (options_.token.empty()) return true;
  return same_secret(request.get_header_value("Authorization"), "Bearer " + options_.token);
}

void ArchiveServer::Implementation::answer(const httplib::Request& request, httplib::Response& response) {
  // httplib would apply the ranges again, and does not check them against the size. The object behind the reference is
  // the server's own and not const.
  const_cast<httplib::Request&>(request).ranges.clear();
  response.set_header("X-Content-Type-Options", "nosniff");
  if (!is_authorized(request)) {
    response.status = 401;
    response.set_header("WWW-Authenticate", "Bearer");
    return;
  }
  if (request.path == kMetricsPath) {
    response.set_content(metrics_.text(), "text/plain; version=0.0.4");
    response.status = 200;
    return;
  }
  auto found = folder_.find(request.path);
  if (!found.ok()) {
    response.status = found.error().kind == ErrorKind::kInvalidArgument ? 404 : 500;
  } else if (found->is_folder) {
    answer_folder(request, response, *found);
  } else {
    answer_file(request, response, std::move(found).value());
  }
}

void ArchiveServer::Implementation::answer_folder(const httplib::Request& request, httplib::Response& response,
                                                  const ServedFile& folder) {
  if (!request.path.ends_with('/')) {  // links in the listing are relative
    response.set_redirect(percent_encode(request.path, true) + "/", 301);
    return;
  }
  const auto entries = folder_.list(folder);
  if (!entries.ok()) {
    response.status = 500;
    return;
  }
  response.status = 200;
  if (request.get_header_value("Accept").find("application/json") != std::string::npos) {
    response.set_content(listing_json(*entries), "application/json");
  } else {
    response.set_content(listing_html(request.path, *entries), "text/html; charset=utf-8");
  }
}

void ArchiveServer::Implementation::answer_file(const httplib::Request& request, httplib::Response& response,
                                                ServedFile file) {
  const FileAnswer answer =
      answer_for_file({request.get_header_value("If-Match"), request.get_header_value("If-None-Match"),
                       request.get_header_value("If-Range"), request.get_header_value("Range")},
                      file.bytes, file.etag);
  response.status = answer.status;
  response.set_header("ETag", file.etag);
  response.set_header("Cache-Control", "no-cache");  // may be kept, to be asked for with If-None-Match
  if (!answer.content_range.empty()) response.set_header("Content-Range", answer.content_range);
  if (answer.status != 200 && answer.status != 206) return;
  if (answer.bytes == 0) {
    response.set_content("", "application/octet-stream");
    return;
  }
  const auto shared = std::make_shared<ServedFile>(std::move(file));
  response.set_content_provider(
      answer.bytes, "application/octet-stream",
      [this, shared, first = answer.first](size_t offset, size_t left, httplib::DataSink& sink) {
        return send_slice(*shared, first + offset, std::min<uint64_t>(left, kSendSliceBytes), sink);
      });
}

bool ArchiveServer::Implementation::send_slice(const ServedFile& file, uint64_t offset, uint64_t bytes,
                                               httplib::DataSink& sink) {
  if (std::chrono::steady_clock::now() > drained_at_.load()) return false;
  std::array<char, kSendSliceBytes> buffer;
  const auto slice = std::span(buffer).first(bytes);
  if (!file.read(offset, std::as_writable_bytes(slice)).ok()) return false;
  if (!sink.write(slice.data(), slice.size())) return false;
  metrics_.add_sent(bytes);
  return true;
}

Result<std::unique_ptr<ArchiveServer>> ArchiveServer::create(const ServerOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(ServedFolder folder, ServedFolder::open(options.folder));
  auto implementation = std::make_unique<Implementation>(options, std::move(folder));
  KVPACK_RETURN_IF_ERROR(implementation->bind());
  return std::unique_ptr<ArchiveServer>(new ArchiveServer(std::move(implementation)));
}

ArchiveServer::ArchiveServer(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}
ArchiveServer::~ArchiveServer() = default;
int ArchiveServer::port() const { return implementation_->port(); }
Status ArchiveServer::run() { return implementation_->run(); }
void ArchiveServer::stop() { implementation_->stop(); }

}  // namespace kvpack
