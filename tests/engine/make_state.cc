// SPDX-License-Identifier: Apache-2.0
// kvpack_make_state: computes a text's cache with a real llama.cpp and saves it as a sequence file with a plain token
// list. The state files in samples/ that were not written by llama-server come from here.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "net/engine/llama_engine.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

struct Arguments {
  std::string llama;
  std::string model;
  std::string text;
  std::string output;
  std::string key_type = "f16";
  std::string value_type = "f16";
  bool no_flash_attention = false;
  uint32_t streams = 1;
  uint32_t max_tokens = 1u << 20;
  int threads = 1;
};

Status make_state(const Arguments& arguments) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_file(arguments.text));
  EngineOptions options;
  options.threads = arguments.threads;
  options.flash_attention = !arguments.no_flash_attention;
  options.streams = arguments.streams;
  options.n_ctx = static_cast<uint32_t>(std::min<size_t>(text.size() + 8, arguments.max_tokens));
  KVPACK_ASSIGN_OR_RETURN(options.key_type, dtype_from_name(arguments.key_type));
  KVPACK_ASSIGN_OR_RETURN(options.value_type, dtype_from_name(arguments.value_type));
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(arguments.llama + "/lib", arguments.model, options));
  KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, engine.tokenize(as_text(text)));
  if (tokens.size() > arguments.max_tokens) tokens.resize(arguments.max_tokens);
  KVPACK_RETURN_IF_ERROR(engine.prefill(tokens));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t bytes, engine.save_state(arguments.output, tokens));
  fmt::print("{}: {} tokens, {} bytes\n", arguments.output, tokens.size(), bytes);
  return {};
}

}  // namespace
}  // namespace kvpack::engine

int main(int argc, char** argv) {
  kvpack::engine::Arguments arguments;
  CLI::App app{"The cache of a text as a llama.cpp state file", "kvpack_make_state"};
  app.add_option("--llama", arguments.llama, "folder with llama.cpp's lib/ (see fetch_llama.sh)")->required();
  app.add_option("--model", arguments.model, "GGUF")->required();
  app.add_option("--text", arguments.text, "UTF-8 text")->required();
  app.add_option("-o,--output", arguments.output, "state file")->required();
  app.add_option("--cache-type-k", arguments.key_type)->capture_default_str();
  app.add_option("--cache-type-v", arguments.value_type)->capture_default_str();
  app.add_flag("--no-flash-attention", arguments.no_flash_attention, "V is then stored transposed");
  app.add_option("--streams", arguments.streams)->capture_default_str()->check(CLI::Range(1u, 64u));
  app.add_option("--max-tokens", arguments.max_tokens, "drop the rest of the text")->check(CLI::Range(1u, 1u << 20));
  app.add_option("--threads", arguments.threads)->capture_default_str()->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);

  const kvpack::Status status = make_state(arguments);
  if (!status.ok()) {
    fmt::print(stderr, "kvpack_make_state: {}\n", status.error().message);
    return 1;
  }
  return 0;
}
