// SPDX-License-Identifier: Apache-2.0
// A real nginx on loopback ports with a folder of its own and a self-signed certificate, started and ended by a test.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace kvpack {

// A TCP port that nothing listens on.
inline int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0);
  REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

inline bool accepts_connections(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool accepted = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  ::close(fd);
  return accepted;
}

class NginxServer {
 public:
  static bool is_installed() { return std::system("nginx -v 2>/dev/null && openssl version >/dev/null 2>&1") == 0; }

  // `locations` goes into both servers, http and https.
  explicit NginxServer(const std::string& locations = "") : http_port_(free_port()), https_port_(free_port()) {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("kvpack-nginx-{}-{}", ::getpid(), http_port_);
    std::filesystem::create_directories(folder_ / "www");
    std::filesystem::permissions(folder_ / "www", std::filesystem::perms::all);
    const std::string certificate = fmt::format(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout {0}/key.pem -out {0}/cert.pem -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null",
        folder_.string());
    REQUIRE(std::system(certificate.c_str()) == 0);
    write_configuration(locations);
    start();
  }
  ~NginxServer() {
    stop();
    std::filesystem::remove_all(folder_);
  }
  NginxServer(const NginxServer&) = delete;
  NginxServer& operator=(const NginxServer&) = delete;

  void start() {
    process_ = ::fork();
    if (process_ == 0) {
      const std::string configuration = folder_ / "nginx.conf";
      ::execlp("nginx", "nginx", "-e", "stderr", "-p", folder_.c_str(), "-c", configuration.c_str(), nullptr);
      ::_exit(127);
    }
    for (int i = 0; i < 500 && !accepts_connections(https_port_); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    REQUIRE(accepts_connections(https_port_));
  }
  // As a crash would: nothing under way is finished.
  void stop() {
    if (process_ <= 0) return;
    ::kill(process_, SIGTERM);
    ::waitpid(process_, nullptr, 0);
    process_ = -1;
  }

  std::string http(const std::string& path) const { return fmt::format("http://127.0.0.1:{}{}", http_port_, path); }
  std::string https(const std::string& path) const { return fmt::format("https://localhost:{}{}", https_port_, path); }
  std::filesystem::path www() const { return folder_ / "www"; }
  std::string certificate() const { return folder_ / "cert.pem"; }
  void put(const std::string& name, std::string_view content) const {
    std::ofstream(www() / name, std::ios::binary) << content;
  }
  std::string get(const std::string& name) const {
    std::ifstream file(www() / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // "METHOD PATH PROTOCOL STATUS BYTES", one line per request so far; waits for the last of `expected` to be written.
  std::vector<std::string> log(size_t expected) const {
    std::vector<std::string> lines;
    for (int i = 0; i < 200 && lines.size() < expected; ++i) {
      if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      lines.clear();
      std::ifstream file(folder_ / "access.log");
      for (std::string line; std::getline(file, line);) lines.push_back(line);
    }
    return lines;
  }

 private:
  void write_configuration(const std::string& locations) const {
    const std::string folder = folder_.string();
    std::ofstream(folder_ / "nginx.conf")
        << "daemon off; master_process off; pid " << folder << "/nginx.pid;\n"
        << "error_log " << folder << "/error.log;\nevents {}\nhttp {\n"
        << "log_format test '$request_method $uri $server_protocol $status $body_bytes_sent';\n"
        << "access_log " << folder << "/access.log test; default_type application/octet-stream;\n"
        << "client_body_temp_path " << folder << "/body; proxy_temp_path " << folder << "/proxy; fastcgi_temp_path "
        << folder << "/fastcgi; uwsgi_temp_path " << folder << "/uwsgi; scgi_temp_path " << folder << "/scgi;\n"
        << "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any; client_max_body_size 0;\n"
        << "server { listen 127.0.0.1:" << http_port_ << "; root " << folder << "/www;\n"
        << locations << "}\nserver { listen 127.0.0.1:" << https_port_ << " ssl http2; ssl_certificate " << folder
        << "/cert.pem; ssl_certificate_key " << folder << "/key.pem; root " << folder << "/www;\n"
        << "location = /downgrade { return 302 http://127.0.0.1:" << http_port_ << "/ctx.kvp; }\n"
        << locations << "}\n}\n";
  }

  int http_port_;
  int https_port_;
  std::filesystem::path folder_;
  pid_t process_ = -1;
};

}  // namespace kvpack
