// SPDX-License-Identifier: Apache-2.0
// Caches of which some tokens were dropped, in a real engine: it predicts what it predicts when it drops them itself.
#include <doctest/doctest.h>

#include <vector>

#include "formats/npy_header.h"
#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/run_program.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

constexpr uint32_t kPrefix = 600;
constexpr uint32_t kContinuation = 64;
const std::string kModel = KVPACK_SAMPLES_DIR "/nano-f16.gguf";

// The first 4 tokens, the last, and two of three between.
bool is_kept(uint32_t token) { return token < 4 || token + 1 == kPrefix || token % 3 != 0; }

struct Nano {
  ScratchFolder scratch;
  LlamaEngine engine;
  std::vector<int32_t> prefix, forced, targets;

  Nano() : engine(open()) {
    const auto text = read_file(KVPACK_SAMPLES_DIR "/lighthouse.txt");
    REQUIRE(text.ok());
    const auto tokens = engine.tokenize(as_text(*text));
    REQUIRE(tokens.ok());
    const auto split = tokens->begin() + kPrefix;
    prefix.assign(tokens->begin(), split);
    forced.assign(split, split + kContinuation);
    targets.assign(split + 1, split + 1 + kContinuation);
    REQUIRE(engine.prefill(prefix).ok());
    REQUIRE(engine.save_state(scratch.file("state"), prefix).ok());
  }
  static LlamaEngine open() {
    EngineOptions options;
    options.n_ctx = 1024;
    auto opened = LlamaEngine::open(KVPACK_LLAMA_LIB, kModel, options);
    REQUIRE_MESSAGE(opened.ok(), opened.error().message);
    return std::move(*opened);
  }
  LogitMatrix predict() {
    auto logits = engine.evaluate(forced);
    REQUIRE_MESSAGE(logits.ok(), logits.error().message);
    return std::move(*logits);
  }
  // Through the program with these options of encode, and back into the engine.
  LogitMatrix predict_after(std::vector<std::string> options) {
    std::vector<std::string> encode = {KVPACK_PROGRAM, "encode", scratch.file("state"),  "-m", kModel, "-q",
                                       "-f",           "-o",     scratch.file("archive")};
    encode.insert(encode.end(), options.begin(), options.end());
    REQUIRE(run_program(encode).ok());
    REQUIRE(run_program({KVPACK_PROGRAM, "decode", scratch.file("archive"), "--profile",
                         KVPACK_SAMPLES_DIR "/profiles/nano.kvprofile", "-q", "-f", "-o", scratch.file("restored")})
                .ok());
    const auto restored = engine.load_state(scratch.file("restored"));
    REQUIRE_MESSAGE(restored.ok(), restored.error().message);
    CHECK(restored->cached_tokens == kPrefix);  // positions survive
    CHECK(restored->payload == prefix);
    return predict();
  }
  double kl(const LogitMatrix& a, const LogitMatrix& b) const {
    const auto distance = compare_predictions(a, b, targets);
    REQUIRE(distance.ok());
    return distance->kl;
  }
};

TEST_CASE("a cache with dropped tokens restores, and predicts as the engine does after dropping the same ones") {
  Nano nano;
  Bytes mask = make_npy_header({"|b1", false, {kPrefix}, 0});
  for (uint32_t t = 0; t < kPrefix; ++t) mask.push_back(std::byte{is_kept(t)});
  REQUIRE(write_file(nano.scratch.file("mask.npy"), mask).ok());
  REQUIRE(nano.engine.load_state(nano.scratch.file("state")).ok());
  const LogitMatrix whole = nano.predict();
  REQUIRE(nano.engine.load_state(nano.scratch.file("state")).ok());
  for (uint32_t t = 0; t < kPrefix; ++t) {
    if (!is_kept(t)) REQUIRE(nano.engine.forget(t, t + 1).ok());
  }
  const LogitMatrix dropped = nano.predict();
  const LogitMatrix restored = nano.predict_after({"--quality", "lossless", "--keep", nano.scratch.file("mask.npy")});
  CHECK(nano.kl(dropped, restored) < 1e-6);
  CHECK(nano.kl(whole, dropped) > 1e-3);  // they were of use
}

TEST_CASE("half of the tokens by score stay nearer to the whole cache than the same number by mask") {
  Nano nano;
  Bytes mask = make_npy_header({"|b1", false, {kPrefix}, 0});
  for (uint32_t t = 0; t < kPrefix; ++t) mask.push_back(std::byte{t < 4 || t % 2 == 1});
  REQUIRE(write_file(nano.scratch.file("mask.npy"), mask).ok());
  REQUIRE(nano.engine.load_state(nano.scratch.file("state")).ok());
  const LogitMatrix whole = nano.predict();
  const std::string profile = KVPACK_SAMPLES_DIR "/profiles/nano.kvprofile";
  const auto loss = [&](std::vector<std::string> options) {
    options.insert(options.end(), {"--quality", "lossless", "--profile", profile});
    return nano.kl(whole, nano.predict_after(options));
  };
  const double by_mask = loss({"--keep", nano.scratch.file("mask.npy")});
  const double by_score = loss({"--keep-top", "0.5"});
  MESSAGE("KL by mask " << by_mask << ", by score " << by_score << ", merged "
                        << loss({"--keep-top", "0.5", "--merge-dropped"}) << ", per head "
                        << loss({"--keep-top", "0.5", "--per-head"}));
  CHECK(by_score < by_mask);
}

}  // namespace
}  // namespace kvpack::engine
