// SPDX-License-Identifier: Apache-2.0
#include "codec/presets/group_quantizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "formats/half.h"

namespace kvpack {
namespace {

// The next f16 up (+1) or down (-1).
float next_f16(float value, int direction) {
  const uint16_t half = f32_to_f16(value);
  const bool negative = (half & 0x8000u) != 0;
  if ((half & 0x7fffu) == 0) return direction > 0 ? 0x1p-24f : -0x1p-24f;
  return f16_to_f32(static_cast<uint16_t>(half + (negative ? -direction : direction)));
}

}  // namespace

float round_to_f16(float value) { return f16_to_f32(f32_to_f16(value)); }

float f16_below(float value) {
  const float rounded = round_to_f16(value);
  return rounded <= value ? rounded : next_f16(rounded, -1);
}

float f16_above(float value) {
  const float rounded = round_to_f16(value);
  return rounded >= value ? rounded : next_f16(rounded, 1);
}

GroupScale quantize_group(float* values, size_t count, size_t stride, int bits) {
  float low = values[0];
  float high = values[0];
  for (size_t i = 1; i < count; ++i) {
    low = std::min(low, values[i * stride]);
    high = std::max(high, values[i * stride]);
  }
  const float minimum = f16_below(low);
  const auto levels = static_cast<float>((1 << bits) - 1);
  const float scale = f16_above((high - minimum) / levels);
  for (size_t i = 0; i < count; ++i) {
    float& value = values[i * stride];
    const float q = scale > 0 ? std::clamp(std::floor((value - minimum) / scale + 0.5f), 0.0f, levels) : 0.0f;
    value = minimum + q * scale;
  }
  return {minimum, scale};
}

uint64_t quantize_along_tokens(float* rows, uint32_t tokens, uint32_t channels, uint32_t group, int bits) {
  uint64_t groups = 0;
  for (uint32_t first = 0; first < tokens; first += group) {
    const uint32_t count = std::min(group, tokens - first);
    for (uint32_t c = 0; c < channels; ++c, ++groups) {
      quantize_group(rows + size_t{first} * channels + c, count, channels, bits);
    }
  }
  return groups * kGroupBits + uint64_t{tokens} * channels * static_cast<uint64_t>(bits);
}

uint64_t quantize_along_channels(float* rows, uint32_t tokens, uint32_t channels, uint32_t group, int bits) {
  uint64_t groups = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t first = 0; first < channels; first += group, ++groups) {
      quantize_group(rows + size_t{t} * channels + first, std::min(group, channels - first), 1, bits);
    }
  }
  return groups * kGroupBits + uint64_t{tokens} * channels * static_cast<uint64_t>(bits);
}

std::vector<uint32_t> outliers_of(const float* values, size_t count, size_t stride, double share) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  const auto each = std::min(
      count / 2, std::max<size_t>(1, static_cast<size_t>(std::lround(share / 2 * static_cast<double>(count)))));
  const auto less = [&](uint32_t a, uint32_t b) { return values[a * stride] < values[b * stride]; };
  const auto low = order.begin() + static_cast<std::ptrdiff_t>(each);
  const auto high = order.end() - static_cast<std::ptrdiff_t>(each);
  std::nth_element(order.begin(), low, order.end(), less);
  std::nth_element(low, high, order.end(), less);
  order.erase(low, high);
  return order;
}

}  // namespace kvpack
