// SPDX-License-Identifier: Apache-2.0
// ZipCache (He et al., NeurIPS 2024, arXiv 2405.14256): values are divided by a factor per
// channel, the root of its largest magnitude, and quantized per token (channel-separable tokenwise quantization), keys
// per channel; salient tokens (60 %) get 4 bits, the others 2. The paper finds them by normalized attention of probe
// queries; here by a profile's token weights, which stand in for it, and without a profile by nearness to the end.
//
// Bytes: 4 or 2 bits a value, a bit a token of a layer for which, f16: two a (channel, class) of K; one a channel and
// two a token of V.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/presets/group_quantizer.h"
#include "codec/presets/preset_planes.h"
#include "codec/token_weights.h"

namespace kvpack {
namespace {

constexpr double kSalientShare = 0.6;
constexpr int kSalientBits = 4;
constexpr int kOtherBits = 2;

// [token], the larger the more salient.
std::vector<double> saliency(const PresetInput& input, const PresetPlane& plane) {
  std::vector<double> score(plane.tokens());
  std::iota(score.begin(), score.end(), 0.0);
  const TokenWeightModel* model = input.profile != nullptr ? input.profile->token_model(plane.plane->layer) : nullptr;
  const ModelFacts* facts = input.file.facts ? &*input.file.facts : input.facts;
  if (model == nullptr || facts == nullptr) return score;
  for (const KvPlane& key : input.file.tensor.planes) {
    const bool same =
        key.side == Side::kKey && key.layer == plane.plane->layer && key.token_set == plane.plane->token_set;
    if (!same || key.view.kv_heads != model->kv_heads || key.view.head_dim != model->head_dim) continue;
    const Rope* rope = key.rope >= 0 ? &facts->ropes[static_cast<size_t>(key.rope)] : nullptr;
    const uint32_t context = static_cast<uint32_t>(std::max(0, plane.positions.back())) + 1;
    const std::vector<float> weights = predict_log_weights(key.view, rope, plane.positions, context, *model);
    std::fill(score.begin(), score.end(), 0.0);
    for (size_t i = 0; i < weights.size(); ++i) score[i % score.size()] += std::exp(static_cast<double>(weights[i]));
  }
  return score;
}

// Tokens [token] that are among the most salient.
std::vector<bool> salient_tokens(const PresetInput& input, const PresetPlane& plane) {
  const std::vector<double> score = saliency(input, plane);
  std::vector<uint32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return score[a] > score[b]; });
  std::vector<bool> salient(score.size());
  const auto count = static_cast<size_t>(std::lround(kSalientShare * static_cast<double>(score.size())));
  for (size_t i = 0; i < count; ++i) salient[order[i]] = true;
  return salient;
}

// The tokens of one class, gathered, quantized, put back; bits.
uint64_t code_keys(PresetPlane& plane, const std::vector<bool>& salient, bool which, int bits) {
  const uint32_t channels = plane.channels();
  std::vector<float> rows;
  for (uint32_t t = 0; t < plane.tokens(); ++t) {
    if (salient[t] != which) continue;
    const auto row = plane.rows.begin() + static_cast<std::ptrdiff_t>(size_t{t} * channels);
    rows.insert(rows.end(), row, row + channels);
  }
  const auto count = static_cast<uint32_t>(rows.size() / channels);
  if (count == 0) return 0;
  const uint64_t total = quantize_along_tokens(rows.data(), count, channels, count, bits);
  auto from = rows.begin();
  for (uint32_t t = 0; t < plane.tokens(); ++t) {
    if (salient[t] != which) continue;
    std::copy(from, from + channels, plane.rows.begin() + static_cast<std::ptrdiff_t>(size_t{t} * channels));
    from += channels;
  }
  return total;
}

uint64_t code_values(PresetPlane& plane, const std::vector<bool>& salient) {
  const uint32_t channels = plane.channels();
  std::vector<float> factor(channels, 0.0f);
  for (size_t i = 0; i < plane.rows.size(); ++i)
    factor[i % channels] = std::max(factor[i % channels], std::fabs(plane.rows[i]));
  for (float& f : factor) f = f > 0 ? f16_above(std::sqrt(f)) : 1.0f;
  uint64_t total = uint64_t{channels} * 16;
  for (uint32_t t = 0; t < plane.tokens(); ++t) {
    float* row = &plane.rows[size_t{t} * channels];
    for (uint32_t c = 0; c < channels; ++c) row[c] /= factor[c];
    total += quantize_along_channels(row, 1, channels, channels, salient[t] ? kSalientBits : kOtherBits);
    for (uint32_t c = 0; c < channels; ++c) row[c] *= factor[c];
  }
  return total;
}

uint64_t code_plane(const PresetInput& input, PresetPlane& plane) {
  if (plane.tokens() == 0) return 0;
  const std::vector<bool> salient = salient_tokens(input, plane);
  if (!plane.is_key()) return code_values(plane, salient);
  const uint64_t which = plane.tokens();  // the layer's values have the same
  return which + code_keys(plane, salient, true, kSalientBits) + code_keys(plane, salient, false, kOtherBits);
}

}  // namespace

void add_zipcache(std::vector<Preset>& all) {
  all.push_back(
      {"zipcache", "zipcache", "4 bits for 60 % of the tokens, 2 for the others", [](const PresetInput& input) {
         return run_per_plane(input, false, [&input](PresetPlane& plane) { return code_plane(input, plane); });
       }});
}

}  // namespace kvpack
