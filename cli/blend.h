// SPDX-License-Identifier: Apache-2.0
// kvpack blend: contexts that were cached on their own become one, for a query: the tokens that need it are computed
// again, by the model's own weights.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/engine_options.h"
#include "cli/net_options.h"

namespace kvpack::cli {

struct BlendArguments {
  std::vector<std::string> inputs;
  std::string model;
  std::string query;
  std::string query_tokens;  // "1,2,3", instead
  std::string output;
  EngineArguments engine;
  std::string select = "hkvd";
  std::string ratio;                      // a number, or "auto"; "": the default
  std::string recompute_by = "weights";   // or "libllama"
  std::optional<double> refine;           // share of the archives' further levels; unset: all of them at once
  std::optional<uint32_t> shared_tokens;  // unset: the BOS token if all chunks begin with it
  std::string profile;                    // of the chunks; "": looked for
  std::string quality = "medium";         // of an archive
  NetArguments net;
  uint32_t threads = 0;
  bool overwrite = false;
  bool json = false;
};

void declare_blend(CLI::App& verb, BlendArguments& arguments);
Result<int> run_blend(const BlendArguments& arguments, Console& console);

}  // namespace kvpack::cli
