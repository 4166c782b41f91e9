// SPDX-License-Identifier: Apache-2.0
#include "net/engine/blend_selection.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace kvpack {
namespace {

constexpr double kWidest = 1.25;  // of the mean, on the layer where tokens are chosen
// A deviation within this much of the expected error may still be error alone.
constexpr double kNoiseMargin = 1.5;

// Adds one side's deviations.
void add_deviations(std::span<const uint32_t> tokens, std::span<const float> fresh, std::span<const float> cached,
                    std::vector<float>& sum) {
  if (tokens.empty()) return;
  const size_t width = fresh.size() / tokens.size();
  double power = 0;
  for (const float x : fresh) power += double{x} * double{x};
  power = std::max(power / static_cast<double>(tokens.size()), 1e-30);
  for (size_t i = 0; i < tokens.size(); ++i) {
    double squared = 0;
    for (size_t c = 0; c < width; ++c) {
      const double difference = double{fresh[i * width + c]} - double{cached[tokens[i] * width + c]};
      squared += difference * difference;
    }
    sum[i] += static_cast<float>(squared / power);
  }
}

}  // namespace

std::string_view blend_select_name(BlendSelect select) {
  return select == BlendSelect::kHkvd ? "hkvd" : select == BlendSelect::kQuery ? "query" : "epic";
}

Result<BlendSelect> blend_select_from_name(std::string_view name) {
  for (const BlendSelect select : {BlendSelect::kHkvd, BlendSelect::kQuery, BlendSelect::kEpic}) {
    if (name == blend_select_name(select)) return select;
  }
  return invalid_argument("no selection '" + std::string(name) + "': there are hkvd, query and epic");
}

std::vector<uint32_t> highest_tokens(std::span<const uint32_t> candidates, std::span<const float> score, size_t count) {
  assert(candidates.size() == score.size());
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < candidates.size(); ++i) {
    if (score[i] > 0) order.push_back(i);
  }
  count = std::min(count, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(),
                    [&](uint32_t a, uint32_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
  std::vector<uint32_t> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(candidates[order[i]]);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<uint32_t> first_tokens(const ChunkBounds& chunks, size_t count) {
  std::vector<uint32_t> taken(chunks.size(), 0);  // [chunk]
  bool any = true;
  while (count > 0 && any) {  // one more of each chunk, round by round
    any = false;
    for (size_t c = 1; c + 1 < chunks.size() && count > 0; ++c) {
      if (chunks[c] + taken[c] == chunks[c + 1]) continue;
      ++taken[c];
      --count;
      any = true;
    }
  }
  std::vector<uint32_t> chosen;
  for (size_t c = 1; c + 1 < chunks.size(); ++c) {
    for (uint32_t i = 0; i < taken[c]; ++i) chosen.push_back(chunks[c] + i);
  }
  return chosen;
}

std::vector<uint32_t> attended_tokens(const ChunkBounds& chunks, std::span<const float> score, size_t count) {
  assert(chunks.size() > 1 && score.size() == chunks.back());
  std::vector<uint32_t> chosen = first_tokens(chunks, std::min(count / 2, kFirstOfChunk * (chunks.size() - 2)));
  std::vector<uint32_t> others;
  std::vector<float> theirs;
  for (uint32_t token = chunks[1]; token < chunks.back(); ++token) {
    if (std::binary_search(chosen.begin(), chosen.end(), token)) continue;
    others.push_back(token);
    theirs.push_back(score[token]);
  }
  const std::vector<uint32_t> attended = highest_tokens(others, theirs, count - chosen.size());
  const auto middle = static_cast<ptrdiff_t>(chosen.size());
  chosen.insert(chosen.end(), attended.begin(), attended.end());
  std::inplace_merge(chosen.begin(), chosen.begin() + middle, chosen.end());
  return chosen;
}

std::vector<uint32_t> narrowing(uint32_t count, size_t check, size_t layers) {
  std::vector<uint32_t> counts(layers, UINT32_MAX);
  for (size_t layer = check; layer < layers; ++layer) {
    const double way =
        layers > check + 1 ? static_cast<double>(layer - check) / static_cast<double>(layers - check - 1) : 0.5;
    counts[layer] = static_cast<uint32_t>(std::lround(count * (kWidest + way * (2 - 2 * kWidest))));
  }
  return counts;
}

std::vector<float> token_deviations(std::span<const uint32_t> tokens, std::span<const float> key,
                                    std::span<const float> value, std::span<const float> cached_key,
                                    std::span<const float> cached_value) {
  std::vector<float> sum(tokens.size());
  add_deviations(tokens, key, cached_key, sum);
  add_deviations(tokens, value, cached_value, sum);
  return sum;
}

std::vector<float> above_noise(std::span<const float> deviation, std::span<const float> noise,
                               const std::vector<bool>& gauge) {
  assert(deviation.size() == noise.size() && deviation.size() == gauge.size());
  double without_need = 0;
  double copied = 0;
  for (size_t i = 0; i < deviation.size(); ++i) {
    if (!gauge[i]) continue;
    without_need += double{deviation[i]};
    copied += double{noise[i]};
  }
  const double growth = copied > 0 ? kNoiseMargin * without_need / copied : 0;
  std::vector<float> above;
  for (size_t i = 0; i < deviation.size(); ++i) {
    above.push_back(static_cast<float>(std::max(0.0, double{deviation[i]} - growth * double{noise[i]})));
  }
  return above;
}

double hidden_ratio(double seconds, uint64_t tokens, double seconds_per_token) {
  const double all = static_cast<double>(tokens) * seconds_per_token;
  return all > 0 ? std::clamp(seconds / all, 0.0, 1.0) : 1;
}

}  // namespace kvpack
