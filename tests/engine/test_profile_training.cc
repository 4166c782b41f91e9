// SPDX-License-Identifier: Apache-2.0
// Profiles trained with a real llama.cpp: what the callback shows is what the cache holds, and what is learned from
// some texts holds for another. KVPACK_PROFILE_MODEL names another model than nano to try (its figures are printed).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>

#include "codec/attention_sensitivity.h"
#include "codec/profile_file.h"
#include "codec/rope.h"
#include "codec/token_weight_fit.h"
#include "formats/kv_file.h"
#include "net/engine/libllama_model.h"
#include "net/engine/libllama_profile.h"
#include "net/engine/output_projection.h"
#include "tests/engine/llama_engine.h"
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

TEST_CASE("token weights learned from some texts are those of another") {
  const std::string path = model_path();
  ProfileRunOptions options = short_run();
  std::string held_out = text_of(KVPACK_SAMPLES_DIR "/lighthouse.txt");
  std::vector<std::string> texts = training_texts();
  if (const char* folder = std::getenv("KVPACK_PROFILE_TEXTS"); folder != nullptr) {
    held_out = text_of(std::string(folder) + "/held-out.txt");
    texts = {text_of(std::string(folder) + "/0.txt"), text_of(std::string(folder) + "/1.txt")};
    options.window_tokens = 2304;
  }
  Profile profile;
  if (const char* trained = std::getenv("KVPACK_PROFILE"); trained != nullptr) {
    const auto bytes = read_whole_file(trained);
    REQUIRE(bytes.ok());
    const auto read = read_profile(*bytes, trained);
    REQUIRE(read.ok());
    profile = *read;
  } else {
    const auto run = train_profile(path, texts, options);
    REQUIRE_MESSAGE(run.ok(), run.error().message);
    profile = run->profile;
  }

  const auto model = LibllamaModel::open(path);
  const auto facts = read_model_facts(path);
  const auto source = open_file_source(path);
  const auto gguf = read_gguf(**source);
  REQUIRE(gguf.ok());
  auto tokens = model->tokenize(held_out);
  REQUIRE(tokens.ok());
  if (model->bos() >= 0) tokens->insert(tokens->begin(), model->bos());
  REQUIRE(tokens->size() >= options.window_tokens);
  tokens->resize(options.window_tokens);
  double total[2] = {}, heads = 0, sink[2] = {}, all[2] = {};
  const Status status = model->capture(*tokens, {2, true}, [&](const CapturedLayer& captured) -> Status {
    const LayerFacts& fact = facts->layers[captured.layer];
    if (fact.sliding) return {};
    const auto projection = read_output_projection(**source, *gguf, captured.layer, fact.value_dim, 2);
    REQUIRE(projection.ok());
    AttentionLayer layer;
    layer.layer = captured.layer;
    layer.query_heads = projection->query_heads;
    layer.kv_heads = fact.kv_heads;
    layer.key_dim = fact.key_dim;
    layer.value_dim = fact.value_dim;
    layer.rope = facts->ropes[static_cast<size_t>(fact.rope)];
    layer.score_scale = 1 / std::sqrt(static_cast<float>(fact.key_dim));
    layer.output_gram = projection->gram;
    LayerWindow window;
    window.tokens = captured.tokens;
    window.queries = captured.tokens / 9;
    window.query = std::span(captured.query).last(size_t{window.queries} * layer.query_heads * layer.key_dim);
    window.key = captured.key;
    window.value = captured.value;
    double power = 0;
    for (float x : captured.stream) power += static_cast<double>(x) * static_cast<double>(x);
    window.stream_power = power / (static_cast<double>(captured.stream.size()) / captured.width);
    const LayerSensitivity found = attention_sensitivity(layer, window, {});
    std::vector<float> keys = captured.key;
    std::vector<int32_t> positions(captured.tokens);
    std::iota(positions.begin(), positions.end(), 0);
    RopeRotation(*layer.rope, positions).undo(keys, layer.kv_heads, layer.key_dim);
    const TokenWeightModel* weights = profile.token_model(captured.layer);
    REQUIRE(weights != nullptr);
    for (uint32_t head = 0; head < layer.kv_heads; ++head) {
      const size_t count = size_t{layer.key_dim} + 5;
      std::vector<double> predicted, measured[2];
      for (uint32_t t = 0; t < window.prefix(); ++t) {
        const double weight[2] = {found.heads[head].key_weight[t], found.heads[head].value_weight[t]};
        for (int side = 0; side < 2; ++side) {
          all[side] += weight[side];
          if (t == 0) sink[side] += weight[side];
        }
        if (t < kSinkTokens) continue;
        predicted.push_back(predict_log_weight(
            std::span(weights->weights).subspan(head * count, count),
            std::span(keys).subspan((size_t{t} * layer.kv_heads + head) * layer.key_dim, layer.key_dim), t,
            window.prefix()));
        for (int side = 0; side < 2; ++side) measured[side].push_back(std::log(weight[side] + 1e-30));
      }
      for (int side = 0; side < 2; ++side) total[side] += correlation(predicted, measured[side]);
      ++heads;
    }
    return {};
  });
  REQUIRE_MESSAGE(status.ok(), status.error().message);
  MESSAGE(
      fmt::format("correlation of predicted and measured ln weight, {} heads: K {:.3f}, V {:.3f}; first token's "
                  "share of the whole: K {:.3f}, V {:.3f}",
                  heads, total[0] / heads, total[1] / heads, sink[0] / all[0], sink[1] / all[1]));
  CHECK(total[0] / heads > 0.5);
  CHECK(total[1] / heads > 0.5);
}

}  // namespace
}  // namespace kvpack::engine
