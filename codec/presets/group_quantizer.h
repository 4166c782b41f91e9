// SPDX-License-Identifier: Apache-2.0
// Minimum-to-maximum quantization of groups of values, as most recipes have it: x = minimum + q * scale, both f16, so
// rounded that no value is clipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvpack {

// f16 numbers next to `value`: the largest not above it, the smallest not below it (within f16's range).
float f16_below(float value);
float f16_above(float value);
float round_to_f16(float value);

// A scale and a minimum.
inline constexpr uint64_t kGroupBits = 32;

struct GroupScale {
  float minimum = 0;
  float scale = 0;
};

// Values values[0], values[stride], ... become what 2^bits levels keep of them.
GroupScale quantize_group(float* values, size_t count, size_t stride, int bits);

// Rows [0, tokens) of [token][channels] in groups along one axis; the last group of each may be shorter. Returns bits.
uint64_t quantize_along_tokens(float* rows, uint32_t tokens, uint32_t channels, uint32_t group, int bits);
uint64_t quantize_along_channels(float* rows, uint32_t tokens, uint32_t channels, uint32_t group, int bits);

// The `share` of values (half of it at either end, one each at least) that lie furthest out, as indices in
// [0, count) of values[0], values[stride], ...
std::vector<uint32_t> outliers_of(const float* values, size_t count, size_t stride, double share);

}  // namespace kvpack
