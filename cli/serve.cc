// SPDX-License-Identifier: Apache-2.0
#include "cli/serve.h"

#include <fmt/format.h>
#include <pthread.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "cli/exit_code.h"
#include "cli/printable.h"
#include "net/archive_server.h"

namespace kvpack::cli {
namespace {

constexpr const char* kFolderType = "DIR";

bool is_loopback(const std::string& address) {
  return address == "localhost" || address == "::1" || address.rfind("127.", 0) == 0;
}

// SIGINT and SIGTERM, from now on, in this thread and those it starts: they wait to be fetched.
sigset_t block_ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

}  // namespace

void declare_serve(CLI::App& verb, ServeArguments& arguments) {
  verb.add_option("DIR", arguments.folder, "folder to serve")->type_name(kFolderType)->required();
  verb.add_option("--port", arguments.port, "port; 0 for any free one (default: 8100)")
      ->type_name("N")
      ->check(CLI::Range(0, 65535));
  verb.add_option("--bind", arguments.bind, "address to listen on (default: 127.0.0.1, this machine only)")
      ->type_name("ADDR");
  verb.add_option("--token", arguments.token,
                  "bearer token to ask for (or $KVPACK_TOKEN, which other users cannot see)")
      ->type_name("TOKEN");
  verb.footer(
      "Serves files and folder listings, ranges included; /metrics is for Prometheus. Hidden files and symbolic links\n"
      "are not served. It speaks plain HTTP: beyond this machine, put it behind nginx, or let nginx serve the "
      "folder.\n\n"
      "Examples:\n"
      "  kvpack serve archives\n"
      "  KVPACK_TOKEN=secret kvpack serve archives --bind 0.0.0.0 --port 9000\n"
      "  kvpack inspect http://127.0.0.1:8100/ctx.kvp");
}

Result<int> run_serve(const ServeArguments& arguments, Console& console) {
  ServerOptions options;
  options.folder = arguments.folder;
  options.bind = arguments.bind;
  options.port = arguments.port;
  const char* token = std::getenv("KVPACK_TOKEN");
  options.token = arguments.token.empty() && token != nullptr ? token : arguments.token;
  const sigset_t signals = block_ending_signals();
  KVPACK_ASSIGN_OR_RETURN(const auto server, ArchiveServer::create(options));
  if (!is_loopback(options.bind) && options.token.empty()) {
    console.note("anyone who reaches this address can read these files; --token asks for a token");
  }
  const bool is_ipv6 = options.bind.find(':') != std::string::npos;
  console.print(fmt::format("serving {} at http://{}:{}/\n", printable(options.folder),
                            is_ipv6 ? "[" + options.bind + "]" : options.bind, server->port()));
  KVPACK_RETURN_IF_ERROR(console.flush());
  std::thread stopper([&server, signals] {
    int signal = 0;
    sigwait(&signals, &signal);
    server->stop();
  });
  const Status status = server->run();
  // Ends the stopper where run() ended by itself.
  pthread_kill(stopper.native_handle(), SIGTERM);
  stopper.join();
  KVPACK_RETURN_IF_ERROR(status);
  return int{kExitOk};
}

}  // namespace kvpack::cli
