// SPDX-License-Identifier: Apache-2.0
// An HTTP/1.1 server on a raw loopback socket that sends exactly what a test writes, right or wrong, and counts what it
// was asked. Every connection has a thread of its own; all of them end with the server.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace kvpack {

struct ScriptedRequest {
  size_t number = 0;  // from 0, over all connections
  std::string method;
  std::string target;
  std::map<std::string, std::string> headers;  // lower-case names

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
  // Of "Range: bytes=FIRST-LAST".
  std::pair<uint64_t, uint64_t> range() const {
    unsigned long long first = 0, last = 0;
    if (std::sscanf(header("range").c_str(), "bytes=%llu-%llu", &first, &last) != 2) return {0, 0};
    return {first, last};
  }
};

class ScriptedServer {
 public:
  class Connection {
   public:
    Connection(ScriptedServer& server, int fd) : server_(server), fd_(fd) {}
    // False once the client or the test has gone.
    bool send(std::string_view bytes) {
      while (!bytes.empty()) {
        const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent <= 0) return false;
        server_.sent_bytes_ += static_cast<uint64_t>(sent);
        bytes.remove_prefix(static_cast<size_t>(sent));
      }
      return true;
    }
    // False if the server is being stopped meanwhile.
    bool wait(std::chrono::milliseconds time) {
      std::unique_lock lock(server_.mutex_);
      return !server_.stopped_.wait_for(lock, time, [this] { return server_.stopping_; });
    }
    void close() { ::shutdown(fd_, SHUT_RDWR); }

   private:
    ScriptedServer& server_;
    int fd_;
  };
  using Handler = std::function<void(const ScriptedRequest&, Connection&)>;

  explicit ScriptedServer(Handler handler) : handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_, 64) == 0);
    socklen_t length = sizeof address;
    REQUIRE(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }

  ~ScriptedServer() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    stopped_.notify_all();
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (std::thread& thread : threads_) thread.join();
    ::close(listener_);
  }

  std::string url(std::string_view path = "/ctx.kvp") const {
    return fmt::format("http://127.0.0.1:{}{}", port_, path);
  }
  int port() const { return port_; }
  size_t requests() const { return requests_; }
  size_t connections() const { return connections_; }
  uint64_t sent_bytes() const { return sent_bytes_; }
  std::vector<ScriptedRequest> log() {
    const std::lock_guard lock(mutex_);
    return log_;
  }

 private:
  void accept_all() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        ::close(fd);
        return;
      }
      ++connections_;
      open_.push_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    Connection connection(*this, fd);
    std::string buffer;
    for (;;) {
      const size_t end = buffer.find("\r\n\r\n");
      if (end == std::string::npos) {
        char bytes[4096];
        const ssize_t got = ::recv(fd, bytes, sizeof bytes, 0);
        if (got <= 0) break;
        buffer.append(bytes, static_cast<size_t>(got));
        continue;
      }
      const ScriptedRequest request = parse(buffer.substr(0, end));
      buffer.erase(0, end + 4);
      handler_(request, connection);
    }
    const std::lock_guard lock(mutex_);
    open_.remove(fd);
    ::close(fd);
  }

  ScriptedRequest parse(std::string_view text) {
    ScriptedRequest request;
    const std::string_view line = text.substr(0, text.find("\r\n"));
    request.method = line.substr(0, line.find(' '));
    const std::string_view rest = line.substr(request.method.size() + 1);
    request.target = rest.substr(0, rest.find(' '));
    for (size_t at = line.size(); at < text.size();) {
      at += 2;
      const std::string_view field = text.substr(at, text.substr(at).find("\r\n"));
      const size_t colon = field.find(": ");
      std::string name(field.substr(0, colon));
      std::transform(name.begin(), name.end(), name.begin(), [](char c) { return static_cast<char>(std::tolower(c)); });
      if (colon != std::string_view::npos) request.headers[name] = field.substr(colon + 2);
      at += field.size();
    }
    const std::lock_guard lock(mutex_);
    request.number = requests_++;
    log_.push_back(request);
    return request;
  }

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stopping_ = false;
  std::list<int> open_;
  std::list<std::thread> threads_;
  std::vector<ScriptedRequest> log_;
  std::atomic<size_t> requests_ = 0;
  std::atomic<size_t> connections_ = 0;
  std::atomic<uint64_t> sent_bytes_ = 0;
  std::thread acceptor_;
};

// The head of the right answer to a range request for a file of `total` bytes, and what its body has to be.
struct RightAnswer {
  uint64_t first = 0;
  uint64_t bytes = 0;
  std::string head;
};
inline RightAnswer right_answer(const ScriptedRequest& request, uint64_t total, std::string_view etag = "\"v1\"") {
  auto [first, last] = request.range();
  last = std::min(last, total - 1);
  const uint64_t bytes = last - first + 1;
  return {first, bytes,
          fmt::format("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{}\r\nContent-Length: {}\r\n"
                      "ETag: {}\r\n\r\n",
                      first, last, total, bytes, etag)};
}
inline void answer_right(const ScriptedRequest& request, ScriptedServer::Connection& connection, std::string_view body,
                         std::string_view etag = "\"v1\"") {
  const RightAnswer right = right_answer(request, body.size(), etag);
  connection.send(right.head + std::string(body.substr(right.first, right.bytes)));
}

}  // namespace kvpack
