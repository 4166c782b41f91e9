// SPDX-License-Identifier: Apache-2.0
// The entropy coder's model: what a component's class byte stands for, shared by encoder and decoder.
//
// A class byte is 0 (dead: every symbol is zero and nothing is coded) or 1 + 2 * scale + shape. The scale, in twelfths
// of an octave of sigma / step, is relative to the plane's scale_offset. A token group's class shifts it by whole
// octaves, a finer level by 19 (log2 3 in twelfths). A scale above kMaxSymbolScale is brought down in thirds of the
// step: the symbol is then coded at 3^depth times the step, and `depth` ternary digits follow it.
#pragma once

#include <array>
#include <cstdint>

namespace kvpack {

inline constexpr int kSymbolScales = 73;
inline constexpr int kDigitScales = 109;
inline constexpr int kMaxSymbolScale = kSymbolScales - 1;
inline constexpr int kUnitScale = 60;  // sigma == step
inline constexpr int kScalesPerOctave = 12;
inline constexpr int kScalesPerThird = 19;  // 12 * log2(3) = 19.02
inline constexpr int kMaxSymbol = 7;        // symbols are -7..7
inline constexpr int kEscapeIndex = 15;
inline constexpr int kShapes = 2;  // 0 Gaussian, 1 Laplacian
inline constexpr uint8_t kDeadClass = 0;
inline constexpr int kClassScales = 127;  // class byte 1..254

// Frequencies out of 256. Symbols: q + 7 for q in -7..7, then the escape; 0 means: only by escape.
extern const uint8_t kSymbolFrequencies[kShapes][kSymbolScales][16];
// Digits r = -1, 0, 1 by [shape][scale of the finer step][parent is not zero][r + 1]. With a parent that is not zero, r
// is folded by the parent's sign: index 0 is the digit toward zero.
extern const uint8_t kDigitFrequencies[kShapes][kDigitScales][2][3];

inline int shape_of_class(uint8_t class_byte) { return (class_byte - 1) & 1; }
inline int scale_of_class(uint8_t class_byte) { return (class_byte - 1) >> 1; }
inline uint8_t make_class(int scale, int shape) { return static_cast<uint8_t>(1 + 2 * scale + shape); }

// How one component's symbols in one token class are coded.
struct SymbolModel {
  int shape = 0;
  int scale = 0;  // 0..kMaxSymbolScale, at the coarsest step
  int depth = 0;  // ternary digits within level 0

  // The digit that refines the symbol's step by 3^-k, k = 1, 2, ...
  int digit_scale(int k) const {
    const int at = scale + k * kScalesPerThird;
    return at < kDigitScales ? at : kDigitScales - 1;
  }
};

inline SymbolModel symbol_model(uint8_t class_byte, int scale_offset, int token_class) {
  SymbolModel model;
  model.shape = shape_of_class(class_byte);
  int scale = scale_of_class(class_byte) + scale_offset + token_class * kScalesPerOctave;
  if (scale < 0) scale = 0;
  if (scale > kMaxSymbolScale) {
    model.depth = (scale - kMaxSymbolScale + kScalesPerThird - 1) / kScalesPerThird;
    scale -= model.depth * kScalesPerThird;
  }
  model.scale = scale;
  return model;
}

}  // namespace kvpack
