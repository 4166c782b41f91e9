// SPDX-License-Identifier: Apache-2.0
// kvpack_compare_states: what a real engine predicts from several restored caches of one text, beside what it predicts
// from its own. One JSON line per state: KL, delta-NLL, top-1 agreement. The engine's own state file is written first
// if it is not there yet.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

struct Arguments {
  std::string llama;
  std::string model;
  std::string text;
  std::string reference;
  std::vector<std::string> states;
  uint32_t prefix = 2048;
  uint32_t continuation = 512;
  int threads = 2;
};

Status compare(const Arguments& arguments) {
  EngineOptions options;
  options.threads = arguments.threads;
  options.n_ctx = arguments.prefix + arguments.continuation + 1;
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(arguments.llama + "/lib", arguments.model, options));
  KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_file(arguments.text));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine.tokenize(as_text(text)));
  const size_t needed = size_t{arguments.prefix} + arguments.continuation + 1;
  if (tokens.size() < needed) {
    return invalid_argument(fmt::format("{}: {} tokens, and {} are needed", arguments.text, tokens.size(), needed));
  }
  const auto split = tokens.begin() + arguments.prefix;
  const std::vector<int32_t> prefix(tokens.begin(), split);
  const std::vector<int32_t> forced(split, split + arguments.continuation);
  const std::vector<int32_t> targets(split + 1, split + 1 + arguments.continuation);
  if (!std::filesystem::exists(arguments.reference)) {
    KVPACK_RETURN_IF_ERROR(engine.prefill(prefix));
    KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t written, engine.save_state(arguments.reference, prefix));
  }
  if (arguments.states.empty()) return {};
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState own, engine.load_state(arguments.reference));
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix exact, engine.evaluate(forced));
  for (const std::string& state : arguments.states) {
    KVPACK_ASSIGN_OR_RETURN(const RestoredState restored, engine.load_state(state));
    if (restored.cached_tokens != arguments.prefix) {
      return corrupt(fmt::format("{}: {} tokens cached, not {}", state, restored.cached_tokens, arguments.prefix));
    }
    KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, engine.evaluate(forced));
    KVPACK_ASSIGN_OR_RETURN(const PredictionDistance distance, compare_predictions(exact, logits, targets));
    fmt::print("{{\"state\": \"{}\", \"kl\": {:.6f}, \"delta_nll\": {:.6f}, \"top1\": {:.4f}}}\n", state, distance.kl,
               distance.delta_nll, distance.top1_share);
    std::fflush(stdout);
  }
  return {};
}

}  // namespace
}  // namespace kvpack::engine

int main(int argc, char** argv) {
  using namespace kvpack::engine;
  Arguments arguments;
  CLI::App app{"Predictions from restored caches, compared with those from the engine's own", "kvpack_compare_states"};
  app.add_option("--llama", arguments.llama, "folder with llama.cpp's lib/ (see fetch_llama.sh)")->required();
  app.add_option("--model", arguments.model, "GGUF")->required();
  app.add_option("--text", arguments.text, "text whose first tokens fill the cache")->required();
  app.add_option("--reference", arguments.reference, "the engine's own state file, written if missing")->required();
  app.add_option("--prefix", arguments.prefix)->capture_default_str();
  app.add_option("--continuation", arguments.continuation)->capture_default_str();
  app.add_option("--threads", arguments.threads)->capture_default_str();
  app.add_option("states", arguments.states, "state files to compare");
  CLI11_PARSE(app, argc, argv);
  const kvpack::Status status = compare(arguments);
  if (status.ok()) return 0;
  fmt::print(stderr, "kvpack_compare_states: {}\n", status.error().message);
  return 2;
}
