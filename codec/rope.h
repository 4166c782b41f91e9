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
  // Rows [count][head_dim] of one head, those of tokens[count].
  void redo_some(float* rows, uint32_t count, uint32_t head_dim, const uint32_t* tokens) const;

 private:
  void rotate(std::span<float> rows, uint32_t kv_heads, uint32_t head_dim, const std::vector<float>& angles) const;

  Rope rope_;
  std::vector<int32_t> positions_;
  uint32_t pairs_;
  // Per token cosines, then sines, times the magnitude: one of each per pair; for adjacent pairs two, the first sine
  // negative.
  std::vector<float> redo_angles_;
  std::vector<float> undo_angles_;

  friend const RopeRotation& cached_rotation(const Rope& rope, std::span<const int32_t> positions);
};

// The same, kept from one tile to the next: a chunk's tiles share one or two of them, and sines take as long as all
// else in a tile. Valid until this thread asks for two others.
const RopeRotation& cached_rotation(const Rope& rope, std::span<const int32_t> positions);

}  // namespace kvpack
