// SPDX-License-Identifier: Apache-2.0
// The options of every verb that talks to a running engine: which one, which of its slots, and where its files go.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "net/engine/llama_server.h"

namespace kvpack::cli {

struct EngineArguments {
  std::string engine;       // "llama-server=URL" or "URL"; "": none
  std::string slot_folder;  // its --slot-save-path
  uint32_t slot = 0;

  bool given() const { return !engine.empty(); }
};

// --engine, --slot and --slot-save-path; `purpose` begins the first one's description. The folder is needed wherever
// an engine is named. Returns --engine.
CLI::Option* declare_engine(CLI::App& verb, EngineArguments& arguments, const std::string& purpose);

// Connects to it, and asks whether it is there and has its model loaded. Errors: invalid_argument (another kind of
// engine, a folder that is none), network.
Result<std::unique_ptr<LlamaServer>> open_engine(const EngineArguments& arguments);

}  // namespace kvpack::cli
