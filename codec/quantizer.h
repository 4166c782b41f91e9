// SPDX-License-Identifier: Apache-2.0
// Nested uniform quantizers. A level's step is a third of the one below it, so that
//     q_fine = 3 * q_coarse + r,  r in {-1, 0, 1}
// holds exactly, and by the chain rule H(q_fine) = H(q_coarse) + H(r | q_coarse): refining costs nothing extra.
// Rounding is to nearest; dead zones cost more of the model's predictions than they save.
#pragma once

#include <cmath>
#include <cstdint>

namespace kvpack {

// Largest magnitude that any quantized value may have; tiles beyond it are stored losslessly.
inline constexpr int32_t kMaxQuantized = 1 << 30;

// 3^-level, as the f32 that both sides multiply by.
inline constexpr float kThirds[] = {1.0f,      1.0f / 3,   1.0f / 9,   1.0f / 27,
                                    1.0f / 81, 1.0f / 243, 1.0f / 729, 1.0f / 2187};

// floor(value / step + 1/2), for |value / step| < kMaxQuantized.
inline int32_t quantize(float value, float inverse_step) {
  const float shifted = value * inverse_step + 0.5f;
  const int32_t truncated = static_cast<int32_t>(shifted);
  return truncated - (static_cast<float>(truncated) > shifted ? 1 : 0);
}
inline float dequantize(int32_t q, float step) { return static_cast<float>(q) * step; }

// The coarser quantizer's value: the integer nearest to q / 3, which is never a tie.
inline int32_t parent_of(int32_t q) {
  const int32_t shifted = q + 1;
  return shifted >= 0 ? shifted / 3 : -((2 - shifted) / 3);
}
inline int32_t digit_of(int32_t q) { return q - 3 * parent_of(q); }
inline int32_t refine(int32_t parent, int32_t digit) { return 3 * parent + digit; }

}  // namespace kvpack
