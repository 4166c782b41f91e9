// SPDX-License-Identifier: Apache-2.0
#include "codec/rope.h"

#include <cassert>
#include <cmath>

namespace kvpack {

void deterministic_sincos(double angle, double* sine, double* cosine) {
  // pi/2 in three pieces of at most 24 significant bits: quadrant * piece is exact for quadrants below 2^29
  // (Cody and Waite's reduction).
  constexpr double kHalfPi1 = 0x1.921fb4p+0;
  constexpr double kHalfPi2 = 0x1.4442dp-24;
  constexpr double kHalfPi3 = 0x1.8469898cc5170p-48;
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  const double quadrant = std::floor(angle * kTwoOverPi + 0.5);
  const double x = ((angle - quadrant * kHalfPi1) - quadrant * kHalfPi2) - quadrant * kHalfPi3;
  // Taylor series on [-pi/4, pi/4]: the first term left out is below 2e-17.
  const double z = x * x;
  double s = 0;
  double c = 0;
  for (int n = 17; n >= 3; n -= 2) s = (s + 1.0) * (-z / (n * (n - 1)));
  for (int n = 16; n >= 2; n -= 2) c = (c + 1.0) * (-z / (n * (n - 1)));
  s = x + x * s;
  c = 1.0 + c;
  switch (static_cast<int64_t>(quadrant) & 3) {
    case 0:
      *sine = s;
      *cosine = c;
      return;
    case 1:
      *sine = c;
      *cosine = -s;
      return;
    case 2:
      *sine = -s;
      *cosine = -c;
      return;
    default:
      *sine = -c;
      *cosine = s;
  }
}

RopeRotation::RopeRotation(const Rope& rope, std::span<const int32_t> positions)
    : style_(rope.style),
      first_channel_(rope.first_channel),
      pairs_(static_cast<uint32_t>(rope.inv_freq.size())),
      magnitude_(static_cast<float>(rope.magnitude)),
      inverse_magnitude_(1.0f / static_cast<float>(rope.magnitude)),
      tokens_(positions.size()),
      cosine_(positions.size() * pairs_),
      sine_(positions.size() * pairs_) {
  for (size_t token = 0; token < positions.size(); ++token) {
    for (uint32_t pair = 0; pair < pairs_; ++pair) {
      double s = 0;
      double c = 0;
      deterministic_sincos(positions[token] * rope.inv_freq[pair], &s, &c);
      cosine_[token * pairs_ + pair] = static_cast<float>(c);
      sine_[token * pairs_ + pair] = static_cast<float>(s);
    }
  }
}

void RopeRotation::undo(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim) const {
  rotate(rows, kv_heads, head_dim, true);
}

void RopeRotation::redo(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim) const {
  rotate(rows, kv_heads, head_dim, false);
}

void RopeRotation::rotate(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim, bool inverse) const {
  assert(rows.size() == tokens_ * kv_heads * head_dim && first_channel_ + 2 * pairs_ <= head_dim);
  if (style_ == RopeStyle::kNone) return;
  const uint32_t stride = style_ == RopeStyle::kNorm ? 2 : 1;
  const uint32_t partner = style_ == RopeStyle::kNorm ? 1 : pairs_;
  const float scale = inverse ? inverse_magnitude_ : magnitude_;
  float* row = rows.data() + first_channel_;
  for (size_t token = 0; token < tokens_; ++token) {
    const float* cosine = &cosine_[token * pairs_];
    const float* sine = &sine_[token * pairs_];
    for (uint32_t head = 0; head < kv_heads; ++head, row += head_dim) {
      for (uint32_t pair = 0; pair < pairs_; ++pair) {
        const float c = cosine[pair] * scale;
        const float s = (inverse ? -sine[pair] : sine[pair]) * scale;
        float& a = row[pair * stride];
        float& b = row[pair * stride + partner];
        const float turned_a = a * c - b * s;
        const float turned_b = a * s + b * c;
        a = turned_a;
        b = turned_b;
      }
    }
  }
}

}  // namespace kvpack
