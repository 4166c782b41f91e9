// SPDX-License-Identifier: Apache-2.0
// Layouts (byte offsets in a block; d and dmin are f16):
//
//   q2_K  0 scale|min nibbles[16] (scale low) | 16 qs[64] | 80 d | 82 dmin
//   q3_K  0 hmask[32] | 32 qs[64] | 96 scales, 16 x 6 bits in 12 bytes | 108 d
//   q4_K  0 d | 2 dmin | 4 scales and mins, 8 x 6 bits each in 12 bytes | 16 qs[128]
//   q5_K  0 d | 2 dmin | 4 scales and mins | 16 qh[32] | 48 qs[128]
//   q6_K  0 ql[128] | 128 qh[64] | 192 scales i8[16] | 208 d
//
// Two-bit values: byte i of a half's 32 holds values i, i + 32, i + 64, i + 96 of that half (128 values), low bits
// first. Nibbles of q4_K and q5_K: byte i of each 32 holds values i (low) and i + 32 (high) of 64.
#include "formats/k_quants.h"

#include <cstring>

#include "formats/half.h"

namespace kvpack {
namespace {

float half_at(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return f16_to_f32(half);
}

// Scale and min of sub-block j (0..7) of q4_K and q5_K: the last four keep their upper two bits in the first eight
// bytes.
struct ScaleMin {
  int scale;
  int min;
};
ScaleMin scale_min(const uint8_t* packed, int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4)};
}

// Scale j (0..15) of q3_K: four low bits in nibbles of the first eight bytes, two high bits in the last four.
int q3_scale(const uint8_t* packed, int j) {
  const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
  const int high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
  return (low | (high << 4)) - 32;
}

void one_q2_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 80);
  const float dmin = half_at(block + 82);
  for (int i = 0; i < 256; ++i) {
    const uint8_t packed = block[i / 16];
    const int within = i % 128;
    const int q = (block[16 + i / 128 * 32 + within % 32] >> (2 * (within / 32))) & 3;
    out[i] = d * static_cast<float>(packed & 15) * static_cast<float>(q) - dmin * static_cast<float>(packed >> 4);
  }
}

void one_q3_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 108);
  for (int i = 0; i < 256; ++i) {
    const int within = i % 128;
    const int low = (block[32 + i / 128 * 32 + within % 32] >> (2 * (within / 32))) & 3;
    const int q = low - (((block[i % 32] >> (i / 32)) & 1) != 0 ? 0 : 4);
    out[i] = d * static_cast<float>(q3_scale(block + 96, i / 16)) * static_cast<float>(q);
  }
}

// q4_K and q5_K; `high` is null or a bit of weight 16 per value.
void one_with_mins(const uint8_t* block, const uint8_t* high, const uint8_t* nibbles, float* out) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin of = scale_min(block + 4, j);
    const float scale = d * static_cast<float>(of.scale);
    const float min = dmin * static_cast<float>(of.min);
    for (int i = 0; i < 32; ++i) {
      const uint8_t pair = nibbles[j / 2 * 32 + i];
      int q = j % 2 == 0 ? pair & 15 : pair >> 4;
      if (high != nullptr) q |= ((high[i] >> j) & 1) << 4;
      out[j * 32 + i] = scale * static_cast<float>(q) - min;
    }
  }
}

void one_q4_k(const uint8_t* block, float* out) { one_with_mins(block, nullptr, block + 16, out); }
void one_q5_k(const uint8_t* block, float* out) { one_with_mins(block, block + 16, block + 48, out); }

void one_q6_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int within = i % 128;
    const uint8_t pair = block[half * 64 + within % 64];
    const int low = within < 64 ? pair & 15 : pair >> 4;
    const int high = (block[128 + half * 32 + within % 32] >> (2 * (within / 32))) & 3;
    const auto scale = static_cast<int8_t>(block[192 + i / 16]);
    out[i] = d * static_cast<float>(scale) * static_cast<float>((low | (high << 4)) - 32);
  }
}

template <void (*one)(const uint8_t*, float*), uint32_t bytes>
void widen(const std::byte* blocks, size_t values, float* out) {
  const auto* block = reinterpret_cast<const uint8_t*>(blocks);
  for (size_t i = 0; i < values; i += kKQuantValues, block += bytes) one(block, out + i);
}

}  // namespace

void widen_q2_k(const std::byte* blocks, size_t values, float* out) { widen<one_q2_k, kQ2KBytes>(blocks, values, out); }
void widen_q3_k(const std::byte* blocks, size_t values, float* out) { widen<one_q3_k, kQ3KBytes>(blocks, values, out); }
void widen_q4_k(const std::byte* blocks, size_t values, float* out) { widen<one_q4_k, kQ4KBytes>(blocks, values, out); }
void widen_q5_k(const std::byte* blocks, size_t values, float* out) { widen<one_q5_k, kQ5KBytes>(blocks, values, out); }
void widen_q6_k(const std::byte* blocks, size_t values, float* out) { widen<one_q6_k, kQ6KBytes>(blocks, values, out); }

}  // namespace kvpack
