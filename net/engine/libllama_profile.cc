// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <thread>

#include "codec/attention_layers.h"
#include "codec/profile_train.h"
#include "formats/model_facts.h"
#include "net/engine/libllama_model.h"

namespace kvpack::engine {
namespace {

constexpr uint32_t kMaxQueries = 256;
constexpr uint32_t kWindowPerQuery = 9;
constexpr uint32_t kLeastWindow = 64;
// The recomputed attention may differ from the engine's by its rounding (f16 keys and values), not by more.
constexpr double kMostAttentionError = 0.02;

struct Window {
  std::vector<int32_t> tokens;
  size_t text = 0;
};

// Every text gives its n-th window before any gives its n+1st, the texts in an order drawn from `seed`.
Result<std::vector<Window>> cut_windows(const LibllamaModel& model, const std::vector<std::string>& texts,
                                        uint32_t window_tokens, const ProfileRunOptions& options) {
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937_64 random(options.seed);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);

  const bool has_bos = model.bos() >= 0;
  const size_t step = window_tokens - (has_bos ? 1 : 0);
  std::vector<std::vector<int32_t>> tokens(texts.size());
  size_t total = 0;
  for (size_t text = 0; text < texts.size(); ++text) {
    KVPACK_ASSIGN_OR_RETURN(tokens[text], model.tokenize(texts[text]));
    total += tokens[text].size();
  }
  std::vector<Window> windows;
  for (size_t begin = 0, found = 1; found > 0 && windows.size() < options.windows; begin += step) {
    found = 0;
    for (size_t text : order) {
      if (tokens[text].size() < begin + step || windows.size() == options.windows) continue;
      Window window{{}, text};
      if (has_bos) window.tokens.push_back(model.bos());
      const auto first = tokens[text].begin() + static_cast<ptrdiff_t>(begin);
      window.tokens.insert(window.tokens.end(), first, first + static_cast<ptrdiff_t>(step));
      windows.push_back(std::move(window));
      ++found;
    }
  }
  if (windows.empty()) {
    return invalid_argument(fmt::format("a window needs {} tokens, and no text has as many: {} in all, texts: {}",
                                        window_tokens, total, texts.size()));
  }
  return windows;
}

double median(std::vector<double> numbers) {
  if (numbers.empty()) return 0;
  const auto middle = numbers.begin() + static_cast<ptrdiff_t>(numbers.size() / 2);
  std::nth_element(numbers.begin(), middle, numbers.end());
  return *middle;
}

// Median squared norm of the last rows of [row][width].
double median_power(const std::vector<float>& rows, uint32_t width, uint32_t queries) {
  if (width == 0) return 0;
  const size_t count = std::min<size_t>(rows.size() / width, queries);
  std::vector<double> powers;
  for (size_t i = rows.size() / width - count; i < rows.size() / width; ++i) {
    double power = 0;
    for (uint32_t c = 0; c < width; ++c) power += static_cast<double>(rows[i * width + c]) * rows[i * width + c];
    powers.push_back(power);
  }
  return median(std::move(powers));
}

double relative_error(std::span<const float> found, std::span<const float> expected) {
  double error = 0, power = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    error += difference * difference;
    power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return power > 0 ? std::sqrt(error / power) : 0;
}

// What the trainer is shown of a captured layer; its spans lie in `captured`.
Result<LayerWindow> window_of(const CapturedLayer& captured, const AttentionLayer& layer, bool normed) {
  const size_t query_row = size_t{layer.query_heads} * layer.key_dim;
  if (captured.query.size() != captured.tokens * query_row || captured.stream.empty()) {
    return unsupported(fmt::format("layer {}: llama.cpp shows {} query and {} stream values for {} tokens of {} heads",
                                   captured.layer, captured.query.size(), captured.stream.size(), captured.tokens,
                                   layer.query_heads));
  }
  LayerWindow window;
  window.tokens = captured.tokens;
  window.queries = std::min(kMaxQueries, captured.tokens / kWindowPerQuery);
  window.query = std::span(captured.query).last(window.queries * query_row);
  window.key = captured.key;
  window.value = captured.value;
  window.stream_power = median_power(captured.stream, captured.width, window.queries);
  if (normed) {
    // A norm turns the projection's result of power p into one of power `width` (times its weights).
    window.stream_power *= median_power(captured.projected, captured.width, window.queries) / captured.width;
  }
  return window;
}

// A training in progress.
class Run {
 public:
  Run(ProfileTrainer& trainer, const std::vector<bool>& normed, const ProfileRunOptions& options, uint64_t total)
      : trainer_(trainer), normed_(normed), options_(options), total_(total) {}

  // One layer of one window.
  Status add(const CapturedLayer& captured) {
    const auto& layers = trainer_.layers();
    const auto found = std::find_if(layers.begin(), layers.end(),
                                    [&](const AttentionLayer& layer) { return layer.layer == captured.layer; });
    if (found == layers.end()) return {};
    const auto index = static_cast<size_t>(found - layers.begin());
    KVPACK_ASSIGN_OR_RETURN(const LayerWindow window, window_of(captured, *found, normed_[index]));
    KVPACK_ASSIGN_OR_RETURN(const std::vector<float> output, trainer_.add(index, window));
    KVPACK_RETURN_IF_ERROR(check_output(captured, *found, output));
    ++done_;
    if (options_.progress) options_.progress(done_, total_, "training");
    return {};
  }
  double attention_error() const { return attention_error_; }

 private:
  // The recomputed attention is the engine's own, or the sums mean nothing.
  Status check_output(const CapturedLayer& captured, const AttentionLayer& layer, const std::vector<float>& output) {
    const size_t row = size_t{layer.query_heads} * layer.value_dim;
    if (captured.output.size() != captured.tokens * row) {
      return unsupported(
          fmt::format("layer {}: llama.cpp does not show what its attention gives, so that nothing can be checked",
                      captured.layer));
    }
    const double error = relative_error(output, std::span(captured.output).last(output.size()));
    attention_error_ = std::max(attention_error_, error);
    if (error <= kMostAttentionError) return {};
    return unsupported(
        fmt::format("layer {}: attention recomputed from queries and keys differs from llama.cpp's by {:.3f} of its "
                    "norm; this architecture's attention is not understood (capped scores, sink weights?)",
                    captured.layer, error));
  }

  ProfileTrainer& trainer_;
  const std::vector<bool>& normed_;
  const ProfileRunOptions& options_;
  uint64_t total_;
  uint64_t done_ = 0;
  double attention_error_ = 0;
};

}  // namespace

Result<ProfileRun> train_profile(const std::string& model_path, const std::vector<std::string>& texts,
                                 const ProfileRunOptions& options) {
  const unsigned threads = options.threads > 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  KVPACK_ASSIGN_OR_RETURN(const ModelFacts facts, read_model_facts(model_path));
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_file_source(model_path));
  KVPACK_ASSIGN_OR_RETURN(const LibllamaModel model, LibllamaModel::open(model_path));
  ProfileRun run;
  run.window_tokens = options.window_tokens;
  if (facts.context_length > 0) run.window_tokens = std::min(run.window_tokens, facts.context_length);
  if (run.window_tokens < kLeastWindow) {
    return invalid_argument(fmt::format("windows of {} tokens, at least {}", run.window_tokens, kLeastWindow));
  }
  KVPACK_ASSIGN_OR_RETURN(const std::vector<Window> windows, cut_windows(model, texts, run.window_tokens, options));
  KVPACK_ASSIGN_OR_RETURN(const ModelWeights weights, ModelWeights::open(*source, threads));
  KVPACK_ASSIGN_OR_RETURN(ModelAttention attention, read_attention_layers(weights, facts, threads));

  ProfileTrainOptions train_options;
  train_options.seed = options.seed;
  train_options.threads = threads;
  const uint64_t total = windows.size() * attention.layers.size();
  ProfileTrainer trainer(std::move(attention.layers), train_options);
  Run progress(trainer, attention.normed, options, total);
  std::vector<bool> used(texts.size());
  for (const Window& window : windows) {
    const CaptureOptions capture{static_cast<int>(threads), options.flash_attention};
    KVPACK_RETURN_IF_ERROR(
        model.capture(window.tokens, capture, [&](const CapturedLayer& layer) { return progress.add(layer); }));
    used[window.text] = true;
  }
  KVPACK_ASSIGN_OR_RETURN(run.profile, trainer.finish());
  run.windows = static_cast<uint32_t>(windows.size());
  run.texts = static_cast<uint32_t>(std::count(used.begin(), used.end(), true));
  run.attention_error = progress.attention_error();
  run.profile.model_name = facts.name;
  run.profile.model_architecture = facts.architecture;
  run.profile.model_fingerprint = facts.fingerprint;
  run.profile.method = fmt::format("forward passes, {} windows of {} tokens from {} texts, seed {}", run.windows,
                                   run.window_tokens, run.texts, options.seed);
  return run;
}

}  // namespace kvpack::engine
