// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (RoFormer, arXiv 2104.09864), undone before compression and redone after it: keys of one
// head are far more alike before the rotation than after it, and can be put at any other position.
//
// No libm: sine and cosine are computed here, so that every machine restores the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/model_facts.h"

namespace kvpack {

// sin and cos of `angle` radians, |angle| < 2^28, to about 1e-15, the same bits on every IEEE 754 machine.
void deterministic_sincos(double angle, double* sine, double* cosine);

class RopeRotation {
 public:
  // Tables for tokens at `positions`.
  RopeRotation(const Rope& rope, std::span<const int32_t> positions);

  // Rows [token][kv_head][head_dim], in place. redo(undo(x)) is x up to rounding.
  void undo(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim) const;
  void redo(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim) const;

 private:
  void rotate(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim, bool inverse) const;

  RopeStyle style_;
  uint32_t first_channel_;
  uint32_t pairs_;
  float magnitude_;
  float inverse_magnitude_;
  size_t tokens_;
  std::vector<float> cosine_;  // [token][pair]
  std::vector<float> sine_;
};

}  // namespace kvpack
