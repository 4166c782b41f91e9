// SPDX-License-Identifier: Apache-2.0
// --saliency engine: scores measured on the context's own last tokens, judged by what they are worth at equal size.
#include <doctest/doctest.h>

#include <cmath>

#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/run_program.h"
#include "tests/engine/scratch_folder.h"
#include "tests/must.h"

namespace kvpack::engine {
namespace {

using test::must;

TEST_CASE("measured token scores halve what a context loses without any, at the same size") {
  constexpr uint32_t kPrefix = 900, kContinuation = 128;
  const std::string model = KVPACK_SAMPLES_DIR "/nano-f16.gguf";
  const ScratchFolder scratch;
  EngineOptions options;
  options.n_ctx = kPrefix + kContinuation + 1;
  LlamaEngine engine = must(LlamaEngine::open(KVPACK_LLAMA_LIB, model, options));
  const auto tokens = must(engine.tokenize(as_text(must(read_file(KVPACK_SAMPLES_DIR "/lighthouse.txt")))));
  const auto split = tokens.begin() + kPrefix;
  const std::vector<int32_t> prefix(tokens.begin(), split);
  const std::vector<int32_t> forced(split, split + kContinuation);
  const std::vector<int32_t> targets(split + 1, split + 1 + kContinuation);
  must(engine.prefill(prefix));
  must(engine.save_state(scratch.file("state"), prefix));
  must(engine.load_state(scratch.file("state")));
  const LogitMatrix exact = must(engine.evaluate(forced));
  const auto loss = [&](const std::vector<std::string>& scores) {
    std::vector<std::string> encode = {
        KVPACK_PROGRAM, "encode", scratch.file("state"), "-m", model, "--no-profile", "-q", "-f", "--bits",
        "1.0",          "-o",     scratch.file("kvp")};
    encode.insert(encode.end(), scores.begin(), scores.end());
    must(run_program(encode));
    must(run_program({KVPACK_PROGRAM, "decode", scratch.file("kvp"), "-q", "-f", "-o", scratch.file("restored")}));
    must(engine.load_state(scratch.file("restored")));
    return must(compare_predictions(exact, must(engine.evaluate(forced)), targets)).kl;
  };
  const double none = loss({"--no-token-classes"});
  const double measured = loss({"--saliency", "engine"});
  CAPTURE(none);
  CHECK(measured < 0.6 * none);
}

}  // namespace
}  // namespace kvpack::engine
