// SPDX-License-Identifier: Apache-2.0
// ggml's K-quants (ggml-quants.c, MIT): weights in super-blocks of 256 values, with scales of a few bits per sub-block.
// q2_K, q4_K and q5_K: value = d * scale * q - dmin * min; q3_K and q6_K: value = d * scale * q, q signed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvpack {

inline constexpr uint32_t kKQuantValues = 256;
inline constexpr uint32_t kQ2KBytes = 84;
inline constexpr uint32_t kQ3KBytes = 110;
inline constexpr uint32_t kQ4KBytes = 144;
inline constexpr uint32_t kQ5KBytes = 176;
inline constexpr uint32_t kQ6KBytes = 210;

// `values` is a multiple of 256.
void widen_q2_k(const std::byte* blocks, size_t values, float* out);
void widen_q3_k(const std::byte* blocks, size_t values, float* out);
void widen_q4_k(const std::byte* blocks, size_t values, float* out);
void widen_q5_k(const std::byte* blocks, size_t values, float* out);
void widen_q6_k(const std::byte* blocks, size_t values, float* out);

}  // namespace kvpack
