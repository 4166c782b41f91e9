// SPDX-License-Identifier: Apache-2.0
// kvpack fetch: the best of a remote context that the link allows before a deadline, as a KV file.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "cli/console.h"
#include "cli/decode.h"
#include "cli/engine_options.h"
#include "cli/net_options.h"

namespace kvpack::cli {

struct FetchArguments {
  std::string input;
  std::string output;
  std::string profile;  // "": looked for
  std::string model;    // only to find a profile beside it
  std::optional<double> ttft_s;
  std::optional<double> last_prefill_s;
  EngineArguments engine;
  std::optional<double> prefill_tokens_per_s;
  std::string recompute = "needed";
  std::string cache;
  std::optional<double> cache_bytes;
  bool no_cache = false;
  uint32_t threads = 0;
  bool explain = false;
  bool json = false;
  bool overwrite = false;
  NetArguments net;
};

// What `load` shares with it: all options about the archive, its link and the engine, none about the output.
void declare_fetching(CLI::App& verb, FetchArguments& arguments, const std::string& engine_purpose);
// How what comes is decoded, as far as the arguments say.
DecodeArguments decoding_of(const FetchArguments& arguments);

void declare_fetch(CLI::App& verb, FetchArguments& arguments);
Result<int> run_fetch(const FetchArguments& arguments, Console& console);

}  // namespace kvpack::cli
