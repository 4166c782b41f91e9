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

// KL of what follows a text's first tokens, after their cache went through an archive: without and with scores.
struct Losses {
  double none = 0;
  double measured = 0;
};

Losses losses_of(LlamaEngine& engine, const std::string& model, const std::string& text, uint32_t prefix_tokens,
                 uint32_t continuation) {
  const ScratchFolder scratch;
  const auto tokens = must(engine.tokenize(as_text(must(read_file(text)))));
  REQUIRE(tokens.size() > prefix_tokens + continuation);
  const auto split = tokens.begin() + prefix_tokens;
  const std::vector<int32_t> prefix(tokens.begin(), split);
  const std::vector<int32_t> forced(split, split + continuation);
  const std::vector<int32_t> targets(split + 1, split + 1 + continuation);
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
  return {loss({"--no-token-classes"}), loss({"--saliency", "engine"})};
}

// Of three texts together: the KL of one alone, at one size, is a matter of luck by a third.
TEST_CASE("measured token scores halve what a context loses without any, at the same size") {
  constexpr uint32_t kPrefix = 800, kContinuation = 128;
  const std::string model = KVPACK_SAMPLES_DIR "/nano-f16.gguf";
  EngineOptions options;
  options.n_ctx = kPrefix + kContinuation + 1;
  LlamaEngine engine = must(LlamaEngine::open(KVPACK_LLAMA_LIB, model, options));
  Losses all;
  for (const char* text :
       {KVPACK_SAMPLES_DIR "/lighthouse.txt", KVPACK_TEXTS_DIR "/report.txt", KVPACK_TEXTS_DIR "/story.txt"}) {
    const Losses losses = losses_of(engine, model, text, kPrefix, kContinuation);
    all.none += losses.none;
    all.measured += losses.measured;
  }
  CAPTURE(all.none);
  CHECK(all.measured < 0.5 * all.none);
}

}  // namespace
}  // namespace kvpack::engine
