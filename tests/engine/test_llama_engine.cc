// SPDX-License-Identifier: Apache-2.0
// The test bench itself: that the engine repeats itself to the bit, and that the numbers mean what they say.
#include <doctest/doctest.h>

#include <cmath>

#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/plain_state.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

Result<LlamaEngine> open_nano() {
  EngineOptions options;
  options.n_ctx = 1024;
  return LlamaEngine::open(KVPACK_LLAMA_LIB, KVPACK_SAMPLES_DIR "/nano-f16.gguf", options);
}

TEST_CASE("equal predictions are at distance zero, and a known pair at its known one") {
  const LogitMatrix even{2, {0, 0}};
  const LogitMatrix skewed{2, {std::log(3.0f), 0}};
  const auto same = compare_predictions(skewed, skewed, {0});
  REQUIRE(same.ok());
  CHECK(same->kl == 0);
  CHECK(same->delta_nll == 0);
  CHECK(same->top1_share == 1);

  const auto different = compare_predictions(even, skewed, {1});
  REQUIRE(different.ok());
  // KL((1/2, 1/2) || (3/4, 1/4)) = ln(2 / sqrt 3); NLL goes from ln 2 to ln 4.
  CHECK(different->kl == doctest::Approx(std::log(2 / std::sqrt(3.0))));
  CHECK(different->delta_nll == doctest::Approx(std::log(2.0)));
  CHECK_FALSE(compare_predictions(even, skewed, {2}).ok());
  CHECK_FALSE(compare_predictions(even, skewed, {0, 1}).ok());
}

TEST_CASE("a saved cache comes back with all of its tokens, and the engine goes on from it to the same bits") {
  const ScratchFolder scratch;
  REQUIRE(scratch.ok());
  const std::string path = scratch.file("state.bin");
  auto engine = open_nano();
  REQUIRE_MESSAGE(engine.ok(), engine.error().message);
  const auto text = read_file(KVPACK_SAMPLES_DIR "/lighthouse.txt");
  REQUIRE(text.ok());
  auto tokens = engine->tokenize(as_text(*text));
  REQUIRE(tokens.ok());
  const std::vector<int32_t> prefix(tokens->begin(), tokens->begin() + 600);
  const std::vector<int32_t> next(tokens->begin() + 600, tokens->begin() + 632);
  REQUIRE(engine->prefill(prefix).ok());
  REQUIRE(engine->save_state(path, prefix).ok());

  std::vector<float> first_logits;
  for (int run = 0; run < 2; ++run) {
    const auto restored = engine->load_state(path);
    REQUIRE(restored.ok());
    CHECK(restored->payload == prefix);
    CHECK(restored->cached_tokens == prefix.size());
    const auto logits = engine->evaluate(next);
    REQUIRE(logits.ok());
    CHECK(logits->rows() == next.size());
    if (run == 0) first_logits = logits->values;
    CHECK(logits->values == first_logits);
  }

  const auto state = read_file(path);
  REQUIRE(state.ok());
  const auto planes = find_planes(*state);
  REQUIRE_MESSAGE(planes.ok(), planes.error().message);
  CHECK(planes->size() == 8);                           // 4 layers, K and V
  CHECK(count_values(*planes) == 8ull * 600 * 2 * 64);  // 2 heads of 64
  CHECK(relative_l2_error(*planes, *state, *state) == 0);
  double last_error = 0;
  for (const DType type : {DType::kQ8_0, DType::kQ4_0}) {
    const QuantizedState quantized = through_quantized_cache(*planes, *state, type, engine->key_head_dim());
    CHECK(quantized.file_bytes < state->size());
    const double error = relative_l2_error(*planes, *state, quantized.restored);
    CHECK(error > last_error);
    CHECK(error < 0.2);
    last_error = error;
  }
}

TEST_CASE("a state of another layout is refused, and the engine lives on") {
  const ScratchFolder scratch;
  REQUIRE(scratch.ok());
  const std::string path = scratch.file("state.bin");
  auto engine = open_nano();
  REQUIRE(engine.ok());
  REQUIRE(engine->prefill({1, 2, 3}).ok());
  REQUIRE(engine->save_state(path, {1, 2, 3}).ok());
  EngineOptions transposed;
  transposed.flash_attention = false;
  auto other = LlamaEngine::open(KVPACK_LLAMA_LIB, KVPACK_SAMPLES_DIR "/nano-f16.gguf", transposed);
  REQUIRE(other.ok());
  CHECK_FALSE(other->load_state(path).ok());
  CHECK(other->prefill({1, 2, 3}).ok());
}

}  // namespace
}  // namespace kvpack::engine
