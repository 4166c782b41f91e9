// SPDX-License-Identifier: Apache-2.0
#include "cli/engine_options.h"

#include <fmt/format.h>

#include <cstdlib>

#include "cli/console.h"
#include "cli/option_types.h"

namespace kvpack::cli {
namespace {

constexpr std::string_view kLlamaServer = "llama-server";

// "llama-server=URL", or the URL alone.
Result<std::string> server_url(const std::string& engine) {
  const size_t equals = engine.find('=');
  const size_t scheme = engine.find("://");
  if (equals == std::string::npos || equals > scheme) return engine;
  const std::string kind = engine.substr(0, equals);
  if (kind == kLlamaServer) return engine.substr(equals + 1);
  return with_hint(invalid_argument(fmt::format("--engine: no engine of the kind '{}'", kind)),
                   "llama-server=http://HOST:PORT");
}

}  // namespace

CLI::Option* declare_engine(CLI::App& verb, EngineArguments& arguments, const std::string& purpose) {
  auto* engine = verb.add_option("--engine", arguments.engine,
                                 purpose + ", as llama-server=URL (its key, if it wants one, from $LLAMA_API_KEY)")
                     ->type_name("ENGINE");
  verb.add_option("--slot-save-path,--slot-folder", arguments.slot_folder,
                  "the folder it was started with, as seen from here")
      ->type_name("FOLDER")
      ->needs(engine);
  engine->needs("--slot-save-path");
  verb.add_option("--slot", arguments.slot, "its slot (default: 0)")->type_name("N")->needs(engine);
  return engine;
}

Result<std::unique_ptr<LlamaServer>> open_engine(const EngineArguments& arguments) {
  LlamaServerOptions options;
  KVPACK_ASSIGN_OR_RETURN(options.url, server_url(arguments.engine));
  options.slot_folder = arguments.slot_folder;
  options.slot = arguments.slot;
  if (const char* key = std::getenv("LLAMA_API_KEY")) options.api_key = key;
  KVPACK_ASSIGN_OR_RETURN(auto server, LlamaServer::create(std::move(options)));
  KVPACK_RETURN_IF_ERROR(server->check_health());
  return server;
}

}  // namespace kvpack::cli
