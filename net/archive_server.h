// SPDX-License-Identifier: Apache-2.0
// A small web server for a folder of archives, on cpp-httplib: GET and HEAD, single ranges, strong ETags from the
// content, If-Match, If-None-Match, If-Range, folder listings, Prometheus metrics under /metrics. Beyond one machine,
// put nginx or an object store in its place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "formats/result.h"

namespace kvpack {

struct ServerOptions {
  std::string folder;
  std::string bind = "127.0.0.1";
  int port = 8100;     // 0: any free one
  std::string token;   // if not empty, asked of every request as `Authorization: Bearer`
  int threads = 64;    // as many connections are served at a time
  double drain_s = 5;  // what transfers under way get after stop()
};

class ArchiveServer {
 public:
  // Binds; requests are answered once run() is called. Errors: io.
  static Result<std::unique_ptr<ArchiveServer>> create(const ServerOptions& options);
  ~ArchiveServer();
  ArchiveServer(const ArchiveServer&) = delete;
  ArchiveServer& operator=(const ArchiveServer&) = delete;

  int port() const;
  // Serves until stop(). Errors: io.
  Status run();
  // From any thread.
  void stop();

 private:
  class Implementation;
  explicit ArchiveServer(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace kvpack
