// SPDX-License-Identifier: Apache-2.0
// The block types of ggml (ggml-quants.c, MIT), as llama.cpp stores them in quantized KV caches. 32 values a block, d
// and m in f16; nibble j of qs holds value j in its low half and value j + 16 in its high half:
//
//   q8_0    d | qs i8[32]            value = d * q
//   q4_0    d | qs u4[32]            value = d * (q - 8)
//   q4_1    d | m | qs u4[32]        value = d * q + m
//   q5_0    d | qh u32 | qs u4[32]   value = d * (q - 16), bit j of qh is bit 4 of value j
//   q5_1    d | m | qh u32 | qs      value = d * q + m
//   iq4_nl  d | qs u4[32]            value = d * kIq4NlValues[q]
//
// Quantizing follows the reference line by line, since the same bits are the aim; only the casts from float to int are
// clamped, because NaN, infinities and denormal scales make them undefined in C.
#include "formats/ggml_blocks.h"

#include <array>
#include <cassert>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "formats/half.h"

namespace kvpack {
namespace {

constexpr uint32_t kBlockValues = 32;
constexpr uint32_t kHalf = kBlockValues / 2;
constexpr std::array<int8_t, 16> kIq4NlValues = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113};
constexpr float kIq4NlSmallest = 1e-15f;  // blocks below it have scale 0

float load_half(const std::byte* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return f16_to_f32(half);
}

void store_half(std::byte* at, float value) {
  const uint16_t half = f32_to_f16(value);
  std::memcpy(at, &half, sizeof half);
}

// Truncation towards zero, clamped; NaN becomes `low`.
int clamped_int(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  if (value >= static_cast<float>(high)) return high;
  return static_cast<int>(value);
}

float inverse_or_zero(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

// The value of largest magnitude, with its sign.
float signed_extreme(const float* x) {
  float magnitude = 0.0f;
  float extreme = 0.0f;
  for (uint32_t j = 0; j < kBlockValues; ++j) {
    if (magnitude < std::fabs(x[j])) {
      magnitude = std::fabs(x[j]);
      extreme = x[j];
    }
  }
  return extreme;
}

struct Range {
  float low = FLT_MAX;
  float high = -FLT_MAX;
};

Range range_of(const float* x) {
  Range range;
  for (uint32_t j = 0; j < kBlockValues; ++j) {
    if (x[j] < range.low) range.low = x[j];
    if (x[j] > range.high) range.high = x[j];
  }
  return range;
}

uint8_t nibbles(int low, int high) { return static_cast<uint8_t>((low & 15) | ((high & 15) << 4)); }

void quantize_q8_0(const float* x, std::byte* block) {
  float amax = 0.0f;
  for (uint32_t j = 0; j < kBlockValues; ++j) {
    const float magnitude = std::fabs(x[j]);
    amax = amax > magnitude ? amax : magnitude;
  }
  const float d = amax / 127.0f;
  const float inverse = inverse_or_zero(d);
  store_half(block, d);
  for (uint32_t j = 0; j < kBlockValues; ++j) {
    block[2 + j] = static_cast<std::byte>(clamped_int(std::round(x[j] * inverse), -128, 127) & 0xff);
  }
}

void quantize_q4_0(const float* x, std::byte* block) {
  const float d = signed_extreme(x) / -8.0f;
  const float inverse = inverse_or_zero(d);
  store_half(block, d);
  for (uint32_t j = 0; j < kHalf; ++j) {
    const int low = clamped_int(x[j] * inverse + 8.5f, 0, 15);
    const int high = clamped_int(x[kHalf + j] * inverse + 8.5f, 0, 15);
    block[2 + j] = static_cast<std::byte>(nibbles(low, high));
  }
}

void quantize_q4_1(const float* x, std::byte* block) {
  const Range range = range_of(x);
  const float d = (range.high - range.low) / 15.0f;
  const float inverse = inverse_or_zero(d);
  store_half(block, d);
  store_half(block + 2, range.low);
  for (uint32_t j = 0; j < kHalf; ++j) {
    const int low = clamped_int((x[j] - range.low) * inverse + 0.5f, 0, 15);
    const int high = clamped_int((x[kHalf + j] - range.low) * inverse + 0.5f, 0, 15);
    block[4 + j] = static_cast<std::byte>(nibbles(low, high));
  }
}

// Nibbles and fifth bits of q5_0 and q5_1: `q` has 32 values of 5 bits.
void store_fives(const std::array<int, kBlockValues>& q, std::byte* at) {
  uint32_t fifth_bits = 0;
  for (uint32_t j = 0; j < kHalf; ++j) {
    at[4 + j] = static_cast<std::byte>(nibbles(q[j], q[kHalf + j]));
    fifth_bits |= ((static_cast<uint32_t>(q[j]) & 16u) >> 4) << j;
    fifth_bits |= ((static_cast<uint32_t>(q[kHalf + j]) & 16u) >> 4) << (j + kHalf);
  }
  std::memcpy(at, &fifth_bits, sizeof fifth_bits);
}

void quantize_q5_0(const float* x, std::byte* block) {
  const float d = signed_extreme(x) / -16.0f;
  const float inverse = inverse_or_zero(d);
  store_half(block, d);
  std::array<int, kBlockValues> q;
  for (uint32_t j = 0; j < kBlockValues; ++j) q[j] = clamped_int(x[j] * inverse + 16.5f, 0, 31);
  store_fives(q, block + 2);
}

void quantize_q5_1(const float* x, std::byte* block) {
  const Range range = range_of(x);
  const float d = (range.high - range.low) / 31.0f;
  const float inverse = inverse_or_zero(d);
  store_half(block, d);
  store_half(block + 2, range.low);
  std::array<int, kBlockValues> q;
  for (uint32_t j = 0; j < kBlockValues; ++j) q[j] = clamped_int((x[j] - range.low) * inverse + 0.5f, 0, 31);
  store_fives(q, block + 4);
}

// The nearest entry of kIq4NlValues by bisection; ties go up, as in ggml's best_index_int8.
int nearest_iq4_nl(float x) {
  if (x <= kIq4NlValues.front()) return 0;
  if (x >= kIq4NlValues.back()) return 15;
  int below = 0;
  int above = 15;
  while (above - below > 1) {
    const int middle = (below + above) / 2;
    (x < kIq4NlValues[middle] ? above : below) = middle;
  }
  return x - kIq4NlValues[above - 1] < kIq4NlValues[above] - x ? above - 1 : above;
}

void quantize_iq4_nl(const float* x, std::byte* block) {
  std::memset(block, 0, 2 + kHalf);
  const float extreme = signed_extreme(x);
  // ggml leaves stale nibbles beside the zero scale here; zeros are as good and deterministic.
  if (std::fabs(extreme) < kIq4NlSmallest) return;
  const float inverse = 1.0f / (extreme / kIq4NlValues[0]);
  std::array<int, kBlockValues> q;
  float sum_qx = 0.0f;
  float sum_q2 = 0.0f;
  for (uint32_t j = 0; j < kBlockValues; ++j) {
    q[j] = nearest_iq4_nl(inverse * x[j]);
    const float value = kIq4NlValues[q[j]];
    const float weight = x[j] * x[j];
    sum_qx += weight * value * x[j];
    sum_q2 += weight * value * value;
  }
  store_half(block, sum_qx / sum_q2);
  for (uint32_t j = 0; j < kHalf; ++j) block[2 + j] = static_cast<std::byte>(nibbles(q[j], q[kHalf + j]));
}

void dequantize_q8_0(const std::byte* block, float* out) {
  const float d = load_half(block);
  for (uint32_t j = 0; j < kBlockValues; ++j) out[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * d;
}

void dequantize_q4_0(const std::byte* block, float* out) {
  const float d = load_half(block);
  for (uint32_t j = 0; j < kHalf; ++j) {
    const int pair = static_cast<int>(block[2 + j]);
    out[j] = static_cast<float>((pair & 15) - 8) * d;
    out[j + kHalf] = static_cast<float>((pair >> 4) - 8) * d;
  }
}

void dequantize_q4_1(const std::byte* block, float* out) {
  const float d = load_half(block);
  const float m = load_half(block + 2);
  for (uint32_t j = 0; j < kHalf; ++j) {
    const int pair = static_cast<int>(block[4 + j]);
    out[j] = static_cast<float>(pair & 15) * d + m;
    out[j + kHalf] = static_cast<float>(pair >> 4) * d + m;
  }
}

int load_five(const std::byte* at, uint32_t j) {
  uint32_t fifth_bits;
  std::memcpy(&fifth_bits, at, sizeof fifth_bits);
  const int pair = static_cast<int>(at[4 + j % kHalf]);
  const int nibble = j < kHalf ? pair & 15 : pair >> 4;
  return nibble | static_cast<int>(((fifth_bits >> j) & 1u) << 4);
}

void dequantize_q5_0(const std::byte* block, float* out) {
  const float d = load_half(block);
  for (uint32_t j = 0; j < kBlockValues; ++j) out[j] = static_cast<float>(load_five(block + 2, j) - 16) * d;
}

void dequantize_q5_1(const std::byte* block, float* out) {
  const float d = load_half(block);
  const float m = load_half(block + 2);
  for (uint32_t j = 0; j < kBlockValues; ++j) out[j] = static_cast<float>(load_five(block + 4, j)) * d + m;
}

void dequantize_iq4_nl(const std::byte* block, float* out) {
  const float d = load_half(block);
  for (uint32_t j = 0; j < kHalf; ++j) {
    const int pair = static_cast<int>(block[2 + j]);
    out[j] = d * static_cast<float>(kIq4NlValues[pair & 15]);
    out[j + kHalf] = d * static_cast<float>(kIq4NlValues[pair >> 4]);
  }
}

struct BlockKernels {
  void (*quantize)(const float*, std::byte*) = nullptr;
  void (*dequantize)(const std::byte*, float*) = nullptr;
};

BlockKernels kernels_of(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return {quantize_q8_0, dequantize_q8_0};
    case DType::kQ4_0:
      return {quantize_q4_0, dequantize_q4_0};
    case DType::kQ4_1:
      return {quantize_q4_1, dequantize_q4_1};
    case DType::kQ5_0:
      return {quantize_q5_0, dequantize_q5_0};
    case DType::kQ5_1:
      return {quantize_q5_1, dequantize_q5_1};
    case DType::kIq4Nl:
      return {quantize_iq4_nl, dequantize_iq4_nl};
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      break;
  }
  assert(false && "not a block type");
  return {quantize_q8_0, dequantize_q8_0};
}

}  // namespace

void dequantize_blocks(DType dtype, const std::byte* blocks, uint32_t count, float* out) {
  assert(count % kBlockValues == 0);
  const auto kernel = kernels_of(dtype).dequantize;
  for (uint32_t first = 0; first < count; first += kBlockValues, blocks += dtype_block_bytes(dtype)) {
    kernel(blocks, out + first);
  }
}

void quantize_blocks(DType dtype, const float* values, uint32_t count, std::byte* blocks) {
  assert(count % kBlockValues == 0);
  const auto kernel = kernels_of(dtype).quantize;
  for (uint32_t first = 0; first < count; first += kBlockValues, blocks += dtype_block_bytes(dtype)) {
    kernel(values + first, blocks);
  }
}

void rotate_hadamard(float* values, uint32_t count, uint32_t block) {
  assert(block > 0 && (block & (block - 1)) == 0 && count % block == 0);
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (float* at = values; at < values + count; at += block) {
    for (uint32_t width = 1; width < block; width *= 2) {
      for (uint32_t start = 0; start < block; start += 2 * width) {
        for (uint32_t j = start; j < start + width; ++j) {
          const float a = at[j];
          const float b = at[j + width];
          at[j] = a + b;
          at[j + width] = a - b;
        }
      }
    }
    for (uint32_t j = 0; j < block; ++j) at[j] *= scale;
  }
}

}  // namespace kvpack
