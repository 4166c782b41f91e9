// SPDX-License-Identifier: Apache-2.0
// Profiles trained with a real llama.cpp: what the callback shows is what the cache holds, and what is learned from
// some texts holds for another. KVPACK_PROFILE_MODEL names another GGUF than nano to try.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>

#include "codec/attention_layers.h"
#include "codec/attention_sensitivity.h"
#include "codec/profile_file.h"
#include "codec/rope.h"
#include "codec/token_weight_fit.h"
#include "formats/kv_file.h"
#include "net/engine/libllama_model.h"
#include "net/engine/libllama_profile.h"
#include "net/engine/llama_engine.h"
#include "net/engine/profile_calibration.h"
#include "tests/engine/plain_state.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

const std::string kNano = KVPACK_SAMPLES_DIR "/nano-f16.gguf";

std::string model_path() {
  const char* path = std::getenv("KVPACK_PROFILE_MODEL");
  return path != nullptr ? path : kNano;
}

std::string text_of(const std::string& path) {
  const auto bytes = read_whole_file(path);
  REQUIRE_MESSAGE(bytes.ok(), bytes.error().message);
  return std::string(as_text(*bytes));
}

ProfileRunOptions short_run() {
  ProfileRunOptions options;
  options.window_tokens = 900;
  options.windows = 2;
  options.threads = 2;
  return options;
}

std::vector<std::string> training_texts() {
  return {text_of(KVPACK_TEXTS_DIR "/story.txt"), text_of(KVPACK_TEXTS_DIR "/report.txt")};
}

double relative_difference(std::span<const float> found, std::span<const float> expected) {
  double error = 0, power = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
    power += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / power);
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

TEST_CASE("the keys and values that the callback shows are those of the saved cache") {
  const std::string path = model_path();
  const auto facts = read_model_facts(path);
  REQUIRE_MESSAGE(facts.ok(), facts.error().message);
  EngineOptions engine_options;
  engine_options.n_ctx = 512;
  auto engine = LlamaEngine::open(KVPACK_LLAMA_LIB, path, engine_options);
  REQUIRE_MESSAGE(engine.ok(), engine.error().message);
  auto tokens = engine->tokenize(training_texts()[0]);
  REQUIRE(tokens.ok());
  tokens->resize(400);
  REQUIRE(engine->prefill(*tokens).ok());
  const ScratchFolder scratch;
  REQUIRE(engine->save_state(scratch.file("state.bin"), *tokens).ok());
  auto bytes = read_whole_file(scratch.file("state.bin"));
  REQUIRE(bytes.ok());
  const auto file = read_kv_file(std::move(*bytes), {&*facts, true});
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  std::map<std::pair<uint32_t, Side>, std::vector<float>> saved;
  for (const KvPlane& plane : file->tensor.planes) {
    std::vector<float> values(size_t{plane.view.tokens} * plane.view.channels());
    load_values(plane.view, 0, plane.view.tokens, values.data());
    saved[{plane.layer, plane.side}] = std::move(values);
  }

  const auto model = LibllamaModel::open(path);
  REQUIRE_MESSAGE(model.ok(), model.error().message);
  uint32_t layers = 0;
  const Status captured = model->capture(*tokens, {1, true}, [&](const CapturedLayer& layer) -> Status {
    const auto& keys = saved[{layer.layer, Side::kKey}];
    const auto& values = saved[{layer.layer, Side::kValue}];
    REQUIRE(layer.key.size() == keys.size());
    REQUIRE(layer.value.size() == values.size());
    // The cache rounds to f16; another shape of batch adds as much again.
    CHECK(relative_difference(layer.key, keys) < 3e-3);
    CHECK(relative_difference(layer.value, values) < 3e-3);
    ++layers;
    return {};
  });
  REQUIRE_MESSAGE(captured.ok(), captured.error().message);
  CHECK(layers == facts->layers.size());
}

TEST_CASE("un-rotated keys of the first layer depend on the token alone") {
  const std::string path = model_path();
  const auto facts = read_model_facts(path);
  const auto model = LibllamaModel::open(path);
  REQUIRE(facts.ok());
  REQUIRE(model.ok());
  auto tokens = model->tokenize(training_texts()[0]);
  REQUIRE(tokens.ok());
  tokens->resize(400);
  std::vector<float> keys;
  REQUIRE(model
              ->capture(*tokens, {1, true},
                        [&](const CapturedLayer& layer) -> Status {
                          if (layer.layer == 0) keys = layer.key;
                          return {};
                        })
              .ok());
  const LayerFacts& layer = facts->layers[0];
  REQUIRE(layer.rope >= 0);
  std::vector<int32_t> positions(400);
  std::iota(positions.begin(), positions.end(), 0);
  RopeRotation(facts->ropes[static_cast<size_t>(layer.rope)], positions).undo(keys, layer.kv_heads, layer.key_dim);
  std::map<int32_t, size_t> first_seen;
  const size_t row = size_t{layer.kv_heads} * layer.key_dim;
  int repeats = 0;
  for (size_t t = 0; t < tokens->size(); ++t) {
    const auto [seen, is_new] = first_seen.emplace((*tokens)[t], t);
    if (is_new) continue;
    const std::span<const float> all(keys);
    CHECK(relative_difference(all.subspan(t * row, row), all.subspan(seen->second * row, row)) < 1e-2);
    ++repeats;
  }
  CHECK(repeats > 50);
}

TEST_CASE("the same seed gives the same profile; flash attention makes no difference to what is learned") {
  const auto texts = training_texts();
  const auto once = train_profile(kNano, texts, short_run());
  const auto again = train_profile(kNano, texts, short_run());
  REQUIRE_MESSAGE(once.ok(), once.error().message);
  REQUIRE(again.ok());
  CHECK(write_profile(once->profile) == write_profile(again->profile));
  CHECK(once->attention_error < 5e-3);
  CHECK(once->windows == 2);

  auto other_seed = short_run();
  other_seed.seed = 1;
  const auto other = train_profile(kNano, texts, other_seed);
  REQUIRE(other.ok());
  CHECK(write_profile(once->profile) != write_profile(other->profile));

  auto plain = short_run();
  plain.flash_attention = false;
  const auto without = train_profile(kNano, texts, plain);
  REQUIRE_MESSAGE(without.ok(), without.error().message);
  for (size_t i = 0; i < once->profile.planes.size(); ++i) {
    CHECK(relative_difference(without->profile.planes[i].sensitivity, once->profile.planes[i].sensitivity) < 0.02);
  }
}

// One layer of a captured window, and what it is told about errors in it.
struct MeasuredLayer {
  LayerWindow window;
  LayerSensitivity sensitivity;
  std::vector<float> keys;  // RoPE undone
};

MeasuredLayer measure(const CapturedLayer& captured, const AttentionLayer& layer) {
  MeasuredLayer measured;
  const uint32_t queries = captured.tokens / 9;
  measured.window = {captured.tokens,
                     queries,
                     std::span(captured.query).last(size_t{queries} * layer.query_heads * layer.key_dim),
                     captured.key,
                     captured.value,
                     /*stream_power=*/1};  // the same for all tokens: correlations do not see it
  measured.sensitivity = attention_sensitivity(layer, measured.window, {});
  measured.keys = captured.key;
  std::vector<int32_t> positions(captured.tokens);
  std::iota(positions.begin(), positions.end(), 0);
  RopeRotation(*layer.rope, positions).undo(measured.keys, layer.kv_heads, layer.key_dim);
  return measured;
}

// Of predicted and measured ln(weight) over one KV head's prefix, for keys and for values.
std::pair<double, double> head_correlations(const MeasuredLayer& measured, const TokenWeightModel& model,
                                            uint32_t head) {
  const size_t count = size_t{model.head_dim} + 5;
  const auto weights = std::span(model.weights).subspan(head * count, count);
  const HeadSensitivity& found = measured.sensitivity.heads[head];
  std::vector<double> predicted, key, value;
  for (uint32_t t = kSinkTokens; t < measured.window.prefix(); ++t) {
    const auto row =
        std::span(measured.keys).subspan((size_t{t} * model.kv_heads + head) * model.head_dim, model.head_dim);
    predicted.push_back(predict_log_weight(weights, row, t, measured.window.prefix()));
    key.push_back(std::log(found.key_weight[t] + 1e-30));
    value.push_back(std::log(found.value_weight[t] + 1e-30));
  }
  return {correlation(predicted, key), correlation(predicted, value)};
}

TEST_CASE("the unit is measured: wherever it begins, low ends near the KL that it stands for") {
  const auto run = train_profile(kNano, training_texts(), short_run());
  REQUIRE(run.ok());
  const Result<ModelFacts> facts = read_model_facts(kNano);
  REQUIRE(facts.ok());
  CalibrationOptions options;
  options.window_tokens = run->window_tokens;
  double settled[2];
  for (int i = 0; i < 2; ++i) {
    Profile profile = run->profile;
    const double begin = i == 0 ? 0.25 : 4;
    scale_profile(profile, begin);
    const Result<Calibration> found = calibrate_profile(profile, kNano, *facts, training_texts(), options);
    REQUIRE_MESSAGE(found.ok(), found.error().message);
    CHECK(found->kl == doctest::Approx(kLowKl).epsilon(0.4));
    settled[i] = begin * found->scale;
  }
  CHECK(settled[0] == doctest::Approx(settled[1]).epsilon(0.3));
  Profile profile = run->profile;
  CHECK_FALSE(calibrate_profile(profile, kNano, *facts, {"too short"}, options).ok());
}

TEST_CASE("token weights learned from some texts are those of another") {
  const std::string path = model_path();
  const auto run = train_profile(path, training_texts(), short_run());
  REQUIRE_MESSAGE(run.ok(), run.error().message);
  const auto model = LibllamaModel::open(path);
  const auto facts = read_model_facts(path);
  const auto source = open_file_source(path);
  REQUIRE(source.ok());
  const auto weights = ModelWeights::open(**source, 2);
  REQUIRE_MESSAGE(weights.ok(), weights.error().message);
  const auto attention = read_attention_layers(*weights, *facts, 2);
  REQUIRE_MESSAGE(attention.ok(), attention.error().message);
  auto tokens = model->tokenize(text_of(KVPACK_SAMPLES_DIR "/lighthouse.txt"));
  REQUIRE(tokens.ok());
  REQUIRE(tokens->size() >= short_run().window_tokens);
  tokens->resize(short_run().window_tokens);

  double key = 0, value = 0, heads = 0;
  const Status status = model->capture(*tokens, {2, true}, [&](const CapturedLayer& captured) -> Status {
    const AttentionLayer& layer = attention->layers[captured.layer];  // every layer of these models attends
    REQUIRE(layer.layer == captured.layer);
    if (layer.sliding_window > 0) return {};
    const MeasuredLayer measured = measure(captured, layer);
    const TokenWeightModel* token_model = run->profile.token_model(captured.layer);
    REQUIRE(token_model != nullptr);
    for (uint32_t head = 0; head < layer.kv_heads; ++head) {
      const auto [of_key, of_value] = head_correlations(measured, *token_model, head);
      key += of_key;
      value += of_value;
      ++heads;
    }
    return {};
  });
  REQUIRE_MESSAGE(status.ok(), status.error().message);
  MESSAGE(fmt::format("{} heads: correlation K {:.3f}, V {:.3f}", heads, key / heads, value / heads));
  CHECK(key / heads > 0.75);  // nano: .89 and .90
  CHECK(value / heads > 0.75);
}

}  // namespace
}  // namespace kvpack::engine
