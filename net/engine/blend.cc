// SPDX-License-Identifier: Apache-2.0
#include "net/engine/blend.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "codec/subset_forward.h"

namespace kvpack {
namespace {

using Clock = std::chrono::steady_clock;

// Tokens of the first chunk by which a lossy copy's errors are told from a need.
constexpr uint32_t kGaugeTokens = 64;
// Tokens that the speed of this machine is measured with.
constexpr uint32_t kSpeedTokens = 64;
constexpr size_t kSpeedLayers = 2;
// Layer 0 knows nothing of the context: where the cache differs by more than its own size, it is another model's.
constexpr double kMostFirstLayerError = 1.0;

std::vector<uint32_t> range(uint32_t begin, uint32_t end) {
  std::vector<uint32_t> tokens(end - begin);
  std::iota(tokens.begin(), tokens.end(), begin);
  return tokens;
}

class Blend {
 public:
  Blend(JoinedContext& context, const ModelWeights& weights, const ModelAttention& attention,
        const BlendOptions& options)
      : context_(context), weights_(weights), attention_(attention), options_(options) {}

  Result<BlendReport> run();

 private:
  uint32_t query_begin() const { return context_.query_begin(); }
  uint32_t end() const { return static_cast<uint32_t>(context_.tokens().size()); }
  uint32_t second_chunk() const { return context_.chunks()[1]; }
  Status settle_ratio();
  SubsetForward pass(std::vector<uint32_t> subset);
  Status compute(SubsetForward& run);
  Result<std::vector<float>> deviations();
  Result<std::vector<float>> query_attention();
  Status refine(const std::vector<float>& score);
  Status run_hkvd();
  Status run_tokens(std::vector<uint32_t> chosen);
  Status run_elsewhere(const std::vector<uint32_t>& tokens);
  Result<std::vector<uint32_t>> narrow(const FreshLayer& fresh, const std::vector<uint32_t>& counts);
  Status check_first_layer(std::span<const uint32_t> tokens, std::span<const float> deviations) const;

  JoinedContext& context_;
  const ModelWeights& weights_;
  const ModelAttention& attention_;
  const BlendOptions& options_;
  BlendReport report_;
  uint32_t count_ = 0;         // tokens to choose
  double refine_seconds_ = 0;  // that others took
  std::vector<float> noise_;   // [token] deviation on layer 0
};

SubsetForward Blend::pass(std::vector<uint32_t> subset) {
  SubsetForward run;
  run.tokens = context_.tokens();
  run.subset = std::move(subset);
  run.threads = options_.threads;
  run.cached = [this](size_t index) -> Result<CachedLayer> { return context_.layer(index); };
  run.store = [this](const FreshLayer& fresh) -> Status {
    context_.store(fresh.index, fresh.tokens, fresh.key, fresh.value);
    if (options_.progress) options_.progress(fresh.index + 1, context_.layers(), "recomputing");
    return {};
  };
  return run;
}

Status Blend::compute(SubsetForward& run) {
  KVPACK_ASSIGN_OR_RETURN(const uint64_t computed, run_subset_forward(weights_, attention_, run));
  report_.token_layers += computed;
  return {};
}

Status Blend::check_first_layer(std::span<const uint32_t> tokens, std::span<const float> deviations) const {
  double sum = 0;
  uint32_t count = 0;
  for (size_t i = 0; i < tokens.size() && tokens[i] < query_begin(); ++i) {
    sum += double{deviations[i]};
    ++count;
  }
  const double error = count > 0 ? std::sqrt(sum / (2.0 * count)) : 0;
  if (error <= kMostFirstLayerError) return {};
  return unsupported(
      fmt::format("keys and values of the first layer differ from the chunks' by {:.2f} of their norm: they "
                  "are another model's, or its architecture is not understood",
                  error));
}

// Which tokens go on behind this layer: all up to the check layer, then fewer and fewer of the chunks'.
Result<std::vector<uint32_t>> Blend::narrow(const FreshLayer& fresh, const std::vector<uint32_t>& counts) {
  const std::vector<float> deviation =
      token_deviations(fresh.tokens, fresh.key, fresh.value, fresh.cached.key, fresh.cached.value);
  if (fresh.index == 0) {
    KVPACK_RETURN_IF_ERROR(check_first_layer(fresh.tokens, deviation));
    noise_.assign(context_.tokens().size(), 0);
    for (size_t i = 0; i < fresh.tokens.size(); ++i) noise_[fresh.tokens[i]] = deviation[i];
  }
  if (counts[fresh.index] == UINT32_MAX) return std::vector<uint32_t>(fresh.tokens.begin(), fresh.tokens.end());
  std::vector<float> noise;
  std::vector<bool> gauge;
  for (const uint32_t token : fresh.tokens) {
    noise.push_back(noise_[token]);
    gauge.push_back(token < second_chunk());
  }
  const std::vector<float> score = above_noise(deviation, noise, gauge);
  std::vector<uint32_t> candidates;
  std::vector<float> need;
  for (size_t i = 0; i < fresh.tokens.size(); ++i) {
    if (gauge[i] || fresh.tokens[i] >= query_begin()) continue;
    candidates.push_back(fresh.tokens[i]);
    need.push_back(score[i]);
  }
  std::vector<uint32_t> chosen = highest_tokens(candidates, need, counts[fresh.index]);
  if (fresh.index == options_.check_layer) report_.chosen = static_cast<uint32_t>(chosen.size());
  for (uint32_t token = query_begin(); token < end(); ++token) chosen.push_back(token);
  return chosen;
}

Status Blend::run_hkvd() {
  const size_t layers = context_.layers();
  const size_t check = std::min<size_t>(options_.check_layer, layers - 1);
  const std::vector<uint32_t> counts = narrowing(count_, check, layers);
  const uint32_t gauge = second_chunk() - std::min(kGaugeTokens, second_chunk() / 2);
  SubsetForward run = pass(range(gauge, end()));
  run.narrow = [&](const FreshLayer& fresh) { return narrow(fresh, counts); };
  if (!options_.recompute) return compute(run);
  // Only to choose: as many as there are on the mean of all layers.
  std::vector<uint32_t> chosen;
  run.layers = check + 1;
  run.store = nullptr;
  run.narrow = [&](const FreshLayer& fresh) -> Result<std::vector<uint32_t>> {
    KVPACK_ASSIGN_OR_RETURN(chosen, narrow(fresh, fresh.index == check ? std::vector(layers, count_) : counts));
    return std::vector<uint32_t>(fresh.tokens.begin(), fresh.tokens.end());
  };
  KVPACK_RETURN_IF_ERROR(compute(run));
  std::erase_if(chosen, [this](uint32_t token) { return token >= query_begin(); });
  return run_tokens(std::move(chosen));
}

Status Blend::run_elsewhere(const std::vector<uint32_t>& tokens) {
  const CachedLayer before = context_.layer(0);
  report_.token_layers += tokens.size() * context_.layers();
  KVPACK_RETURN_IF_ERROR(options_.recompute(tokens));
  const CachedLayer after = context_.layer(0);
  const auto rows_of = [&](const std::vector<float>& all) {
    const size_t width = all.size() / end();
    std::vector<float> rows;
    for (const uint32_t token : tokens) {
      const auto row = all.begin() + static_cast<ptrdiff_t>(token * width);
      rows.insert(rows.end(), row, row + static_cast<ptrdiff_t>(width));
    }
    return rows;
  };
  return check_first_layer(
      tokens, token_deviations(tokens, rows_of(after.key), rows_of(after.value), before.key, before.value));
}

Status Blend::run_tokens(std::vector<uint32_t> chosen) {
  report_.chosen = static_cast<uint32_t>(chosen.size());
  for (uint32_t token = query_begin(); token < end(); ++token) chosen.push_back(token);
  if (chosen.empty()) return {};
  if (options_.recompute) return run_elsewhere(chosen);
  SubsetForward run = pass(std::move(chosen));
  run.narrow = [&](const FreshLayer& fresh) -> Result<std::vector<uint32_t>> {
    if (fresh.index == 0) {
      KVPACK_RETURN_IF_ERROR(check_first_layer(
          fresh.tokens, token_deviations(fresh.tokens, fresh.key, fresh.value, fresh.cached.key, fresh.cached.value)));
    }
    return std::vector<uint32_t>(fresh.tokens.begin(), fresh.tokens.end());
  };
  return compute(run);
}

// [token of the chunks] how far it is from what the whole context makes of it on the check layer, whatever the reason.
Result<std::vector<float>> Blend::deviations() {
  std::vector<float> score(query_begin());
  SubsetForward look = pass(range(0, query_begin()));
  look.layers = std::min<size_t>(options_.check_layer + 1, context_.layers());
  look.store = nullptr;
  look.narrow = [&](const FreshLayer& fresh) -> Result<std::vector<uint32_t>> {
    score = token_deviations(fresh.tokens, fresh.key, fresh.value, fresh.cached.key, fresh.cached.value);
    if (fresh.index == 0) KVPACK_RETURN_IF_ERROR(check_first_layer(fresh.tokens, score));
    return std::vector<uint32_t>(fresh.tokens.begin(), fresh.tokens.end());
  };
  KVPACK_RETURN_IF_ERROR(compute(look));
  return score;
}

// [token of the chunks] what the query pays to it, over heads and the layers that it looks in.
Result<std::vector<float>> Blend::query_attention() {
  const size_t layers = context_.layers();
  std::vector<float> attention(end());
  SubsetForward look = pass(range(query_begin(), end()));
  look.layers = options_.query_layers > 0 ? std::min<size_t>(options_.query_layers, layers) : (layers + 1) / 2;
  look.attended = [&](size_t, std::span<const float> received) {
    for (size_t i = 0; i < received.size(); ++i) attention[i] += received[i];
  };
  look.store = nullptr;
  KVPACK_RETURN_IF_ERROR(compute(look));
  attention.resize(query_begin());
  return attention;
}

Status Blend::refine(const std::vector<float>& score) {
  const auto start = Clock::now();
  KVPACK_RETURN_IF_ERROR(options_.refine(score));
  refine_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  return {};
}

// `auto`: what a few tokens cost tells what all would.
Status Blend::settle_ratio() {
  if (options_.ratio) {
    report_.ratio = *options_.ratio;
    return {};
  }
  SubsetForward run = pass(range(0, std::min(kSpeedTokens, query_begin())));
  run.layers = std::min(kSpeedLayers, context_.layers());
  run.store = nullptr;
  const auto start = Clock::now();
  KVPACK_ASSIGN_OR_RETURN(const uint64_t computed, run_subset_forward(weights_, attention_, run));
  const std::chrono::duration<double> spent = Clock::now() - start;
  const double per_token = spent.count() / static_cast<double>(computed) * static_cast<double>(context_.layers());
  report_.ratio = hidden_ratio(options_.load_seconds, query_begin(), per_token);
  return {};
}

Result<BlendReport> Blend::run() {
  if (options_.ratio && !(*options_.ratio >= 0 && *options_.ratio <= 1)) {
    return invalid_argument(fmt::format("a ratio of {}: it is a share, 0 to 1", *options_.ratio));
  }
  if (options_.select == BlendSelect::kQuery && query_begin() == end()) {
    return invalid_argument("query-led selection needs a query");
  }
  if (attention_.layers.size() != context_.layers()) return unsupported("layers without attention");
  const auto start = Clock::now();
  KVPACK_RETURN_IF_ERROR(settle_ratio());
  count_ = static_cast<uint32_t>(std::lround(report_.ratio * query_begin()));
  std::vector<float> score(query_begin(), 1);
  if (options_.select == BlendSelect::kQuery && (count_ > 0 || options_.refine)) {
    KVPACK_ASSIGN_OR_RETURN(score, query_attention());
  } else if (options_.select == BlendSelect::kHkvd && options_.refine) {
    KVPACK_ASSIGN_OR_RETURN(score, deviations());
  }
  if (options_.refine) KVPACK_RETURN_IF_ERROR(refine(score));
  if (count_ == 0 || options_.select == BlendSelect::kEpic) {
    KVPACK_RETURN_IF_ERROR(run_tokens(first_tokens(context_.chunks(), count_)));
  } else if (options_.select == BlendSelect::kHkvd) {
    KVPACK_RETURN_IF_ERROR(run_hkvd());
  } else {
    KVPACK_RETURN_IF_ERROR(run_tokens(attended_tokens(context_.chunks(), score, count_)));
  }
  report_.seconds = std::chrono::duration<double>(Clock::now() - start).count() - refine_seconds_;
  report_.all_token_layers = uint64_t{end()} * context_.layers();
  if (report_.token_layers > 0) {
    report_.seconds_per_token =
        report_.seconds * static_cast<double>(context_.layers()) / static_cast<double>(report_.token_layers);
  }
  return report_;
}

}  // namespace

Result<BlendReport> blend(JoinedContext& context, const ModelWeights& weights, const ModelAttention& attention,
                          const BlendOptions& options) {
  return Blend(context, weights, attention, options).run();
}

}  // namespace kvpack
