// SPDX-License-Identifier: Apache-2.0
#include "codec/rope.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <memory>

#include "codec/kernels.h"

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
    : rope_(rope), positions_(positions.begin(), positions.end()), pairs_(static_cast<uint32_t>(rope.inv_freq.size())) {
  if (rope.style == RopeStyle::kNone) return;
  const bool adjacent = rope.style == RopeStyle::kNorm;
  const size_t width = adjacent ? 2 * pairs_ : pairs_;
  redo_angles_.resize(positions.size() * 2 * width);
  undo_angles_.resize(redo_angles_.size());
  const float magnitude = static_cast<float>(rope.magnitude);
  const float inverse_magnitude = 1.0f / magnitude;
  for (size_t token = 0; token < positions.size(); ++token) {
    float* redo = &redo_angles_[token * 2 * width];
    float* undo = &undo_angles_[token * 2 * width];
    for (uint32_t pair = 0; pair < pairs_; ++pair) {
      double s = 0;
      double c = 0;
      deterministic_sincos(positions[token] * rope.inv_freq[pair], &s, &c);
      const float cosine = static_cast<float>(c);
      const float sine = static_cast<float>(s);
      if (adjacent) {
        redo[2 * pair] = redo[2 * pair + 1] = cosine * magnitude;
        redo[width + 2 * pair + 1] = sine * magnitude;
        redo[width + 2 * pair] = -redo[width + 2 * pair + 1];
        undo[2 * pair] = undo[2 * pair + 1] = cosine * inverse_magnitude;
        undo[width + 2 * pair + 1] = -sine * inverse_magnitude;
        undo[width + 2 * pair] = -undo[width + 2 * pair + 1];
      } else {
        redo[pair] = cosine * magnitude;
        redo[width + pair] = sine * magnitude;
        undo[pair] = cosine * inverse_magnitude;
        undo[width + pair] = -sine * inverse_magnitude;
      }
    }
  }
}

void RopeRotation::undo(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim) const {
  rotate(rows, kv_heads, head_dim, undo_angles_);
}

void RopeRotation::redo(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim) const {
  rotate(rows, kv_heads, head_dim, redo_angles_);
}

void RopeRotation::redo_some(float* rows, uint32_t count, uint32_t head_dim, const uint32_t* tokens) const {
  if (rope_.style == RopeStyle::kNone) return;
  kernels().rotate(rows + rope_.first_channel, count, head_dim, pairs_, rope_.style == RopeStyle::kNorm,
                   redo_angles_.data(), tokens);
}

void RopeRotation::rotate(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim,
                          const std::vector<float>& angles) const {
  assert(rows.size() == positions_.size() * kv_heads * head_dim && rope_.first_channel + 2 * pairs_ <= head_dim);
  if (rope_.style == RopeStyle::kNone) return;
  for (uint32_t head = 0; head < kv_heads; ++head) {
    kernels().rotate(rows.data() + size_t{head} * head_dim + rope_.first_channel, positions_.size(),
                     size_t{kv_heads} * head_dim, pairs_, rope_.style == RopeStyle::kNorm, angles.data(), nullptr);
  }
}

const RopeRotation& cached_rotation(const Rope& rope, std::span<const int32_t> positions) {
  thread_local std::unique_ptr<RopeRotation> kept[2];
  for (auto& rotation : kept) {
    if (rotation != nullptr && rotation->rope_ == rope && std::ranges::equal(rotation->positions_, positions)) {
      return *rotation;
    }
  }
  std::swap(kept[0], kept[1]);
  kept[0] = std::make_unique<RopeRotation>(rope, positions);
  return *kept[0];
}

}  // namespace kvpack
