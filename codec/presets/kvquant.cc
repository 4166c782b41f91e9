// SPDX-License-Identifier: Apache-2.0
// KVQuant (Hooper et al., NeurIPS 2024, arXiv 2401.18079): keys before RoPE per channel, values
// per token, 1 % of every such vector exact, the rest scaled to [-1, 1] and rounded to levels of a datatype per plane
// (nuq), the first token exact. The paper learns the datatype on calibration data with Fisher weights; here k-means
// learns it on the very values that it is used on, and its levels are counted (2^b f16 a plane).
//
// Bytes: b bits a value, two f16 a vector, 32 bits an outlier (f16, 16-bit index), a 32-bit row pointer a vector.
#include <algorithm>
#include <array>
#include <cmath>

#include "codec/presets/group_quantizer.h"
#include "codec/presets/preset_planes.h"

namespace kvpack {
namespace {

constexpr double kOutlierShare = 0.01;
constexpr uint32_t kExactTokens = 1;
constexpr size_t kBins = 4096;  // of the histogram that k-means runs on

// Where one vector lies, and what maps it to [-1, 1].
struct Vector {
  float* values = nullptr;
  size_t count = 0;
  size_t stride = 1;
  std::vector<uint32_t> outliers;
  float low = 0;
  float half_range = 0;

  bool is_outlier(size_t i) const { return std::binary_search(outliers.begin(), outliers.end(), i); }
  float normalized(size_t i) const { return half_range > 0 ? (values[i * stride] - low) / half_range - 1 : 0.0f; }
};

void measure(Vector& vector) {
  vector.outliers = outliers_of(vector.values, vector.count, vector.stride, kOutlierShare);
  std::sort(vector.outliers.begin(), vector.outliers.end());
  float low = INFINITY;
  float high = -INFINITY;
  for (size_t i = 0; i < vector.count; ++i) {
    if (vector.is_outlier(i)) continue;
    low = std::min(low, vector.values[i * vector.stride]);
    high = std::max(high, vector.values[i * vector.stride]);
  }
  if (!(low <= high)) return;  // nothing but outliers
  vector.low = f16_below(low);
  vector.half_range = f16_above((high - vector.low) / 2);
}

std::vector<Vector> vectors_of(PresetPlane& plane) {
  std::vector<Vector> vectors;
  const uint32_t channels = plane.channels();
  const uint32_t tokens = plane.tokens();
  float* first = plane.rows.data() + size_t{kExactTokens} * channels;
  if (tokens <= kExactTokens) return vectors;
  if (plane.is_key()) {
    for (uint32_t c = 0; c < channels; ++c) vectors.push_back({first + c, tokens - kExactTokens, channels, {}});
  } else {
    for (uint32_t t = 0; t < tokens - kExactTokens; ++t) {
      vectors.push_back({first + size_t{t} * channels, channels, 1, {}});
    }
  }
  for (Vector& vector : vectors) measure(vector);
  return vectors;
}

// Lloyd's k-means in one dimension, on a histogram over [-1, 1].
std::vector<float> fit_levels(const std::vector<Vector>& vectors, size_t count) {
  std::vector<double> weight(kBins);
  for (const Vector& vector : vectors) {
    for (size_t i = 0; i < vector.count; ++i) {
      if (vector.is_outlier(i)) continue;
      const double at = (static_cast<double>(vector.normalized(i)) + 1) / 2 * kBins;
      ++weight[static_cast<size_t>(std::clamp(at, 0.0, kBins - 1.0))];
    }
  }
  std::vector<double> levels(count);
  for (size_t k = 0; k < count; ++k) levels[k] = (2.0 * static_cast<double>(k) + 1) / static_cast<double>(count) - 1;
  for (int iteration = 0; iteration < 50; ++iteration) {
    std::vector<double> sum(count), mass(count);
    size_t k = 0;
    for (size_t b = 0; b < kBins; ++b) {
      const double x = (2.0 * static_cast<double>(b) + 1) / kBins - 1;
      while (k + 1 < count && x > (levels[k] + levels[k + 1]) / 2) ++k;
      sum[k] += weight[b] * x;
      mass[k] += weight[b];
    }
    for (k = 0; k < count; ++k) {
      if (mass[k] > 0) levels[k] = sum[k] / mass[k];
    }
  }
  std::vector<float> rounded;
  for (const double level : levels) rounded.push_back(round_to_f16(static_cast<float>(level)));
  return rounded;
}

void quantize(Vector& vector, const std::vector<float>& levels) {
  for (size_t i = 0; i < vector.count; ++i) {
    float& value = vector.values[i * vector.stride];
    if (vector.is_outlier(i)) {
      value = round_to_f16(value);
      continue;
    }
    const float x = vector.normalized(i);
    float best = levels[0];
    for (const float level : levels) best = std::fabs(level - x) < std::fabs(best - x) ? level : best;
    value = vector.low + (best + 1) * vector.half_range;
  }
}

uint64_t code_plane(PresetPlane& plane, int bits) {
  std::vector<Vector> vectors = vectors_of(plane);
  const size_t count = size_t{1} << bits;
  const std::vector<float> levels = fit_levels(vectors, count);
  uint64_t total = count * 16 + uint64_t{std::min(kExactTokens, plane.tokens())} * plane.channels() * 16;
  for (Vector& vector : vectors) {
    quantize(vector, levels);
    total += vector.count * static_cast<uint64_t>(bits) + 32 + 32 + vector.outliers.size() * 32;
  }
  return total;
}

}  // namespace

void add_kvquant(std::vector<Preset>& all) {
  for (const int bits : {2, 3, 4}) {
    all.push_back({"kvquant-" + std::to_string(bits), "kvquant",
                   std::to_string(bits) + " bits, levels by k-means, 1 % outliers exact",
                   [bits](const PresetInput& input) {
                     return run_per_plane(input, true, [bits](PresetPlane& plane) { return code_plane(plane, bits); });
                   }});
  }
}

}  // namespace kvpack
