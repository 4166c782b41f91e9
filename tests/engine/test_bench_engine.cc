// SPDX-License-Identifier: Apache-2.0
// `kvpack bench --engine`: what it says of predictions, with a real engine and the nano model.
#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "net/engine/llama_engine.h"
#include "tests/program_run.h"

namespace kvpack::engine {
namespace {

using test::must;

const std::string kNano = KVPACK_SAMPLES_DIR "/nano-f16.gguf";
const std::string kText = KVPACK_SAMPLES_DIR "/lighthouse.txt";

std::string state_of_text(const ScratchFolder& scratch, uint32_t tokens) {
  EngineOptions options;
  options.n_ctx = 1024;
  LlamaEngine engine = must(LlamaEngine::open(KVPACK_LLAMA_LIB, kNano, options));
  std::vector<int32_t> prefix = must(engine.tokenize(as_text(must(read_file(kText)))));
  REQUIRE(prefix.size() > tokens);
  prefix.resize(tokens);
  must(engine.prefill(prefix));
  must(engine.save_state(scratch.file("state.bin"), prefix));
  return scratch.file("state.bin");
}

TEST_CASE("bench asks the model about every method, and draws what it says") {
  const ScratchFolder scratch;
  REQUIRE(scratch.ok());
  const std::string state = state_of_text(scratch, 512);
  const std::vector<std::string> common = {"bench",    state, "-m",        kNano, "--no-profile",
                                           "--engine", kNano, "--threads", "1"};
  std::vector<std::string> arguments = common;
  for (const char* more :
       {"--text", kText.c_str(), "--continuation", "128", "--against", "q8_0,kivi-2", "--json", "--plot"})
    arguments.push_back(more);
  arguments.push_back(scratch.file("kl.svg"));
  const test::Outcome run = test::run_kvpack(arguments);
  REQUIRE_MESSAGE(run.exit_code == 0, run.err);
  std::map<std::string, double> kl;
  const auto report = nlohmann::json::parse(run.out);  // outlives the loop
  for (const auto& method : report["mean"]) kl[method["name"]] = method["kl"];
  CHECK(kl.at("kvpack lossless") == 0);
  CHECK(kl.at("kvpack high") < kl.at("kvpack medium"));
  CHECK(kl.at("kvpack medium") < kl.at("kvpack low"));
  CHECK(kl.at("q8_0") > 0);
  CHECK(kl.at("q8_0") < kl.at("kivi-2"));
  const Bytes picture = must(read_file(scratch.file("kl.svg")));
  CHECK(as_text(picture).starts_with("<svg"));
  CHECK(as_text(picture).find("kivi-2: ") != std::string_view::npos);

  arguments = common;
  const std::string other = scratch.file("other.txt");
  must(write_file(other, as_byte_span("One. " + std::string(as_text(must(read_file(kText)))))));
  arguments.insert(arguments.end(), {"--text", other, "--continuation", "128"});
  const test::Outcome other_text = test::run_kvpack(arguments);
  CHECK(other_text.exit_code == 2);
  CHECK(other_text.err.find("is not what") != std::string::npos);
}

}  // namespace
}  // namespace kvpack::engine
