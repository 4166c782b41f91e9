// SPDX-License-Identifier: Apache-2.0
#include "codec/class_choice.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "codec/class_code.h"
#include "codec/entropy_tables.h"
#include "codec/kernels.h"
#include "codec/quantizer.h"

namespace kvpack {
namespace {

// The escape code's own bits: at most one byte for |q| <= 7.
constexpr float kShortEscapeBits = 8;

// What each symbol and digit costs, in bits.
struct CodeBits {
  float symbols[kShapes][kSymbolScales][16];  // q + 7, with its escape if it needs one; the escape itself
  float digits[kShapes][kDigitScales][2][3];

  CodeBits() {
    const auto bits_of = [](uint8_t frequency) { return 8.0f - std::log2(static_cast<float>(frequency)); };
    for (int shape = 0; shape < kShapes; ++shape) {
      for (int scale = 0; scale < kSymbolScales; ++scale) {
        const uint8_t* frequency = kSymbolFrequencies[shape][scale];
        float* bits = symbols[shape][scale];
        bits[kEscapeIndex] = bits_of(frequency[kEscapeIndex]);
        for (int i = 0; i < kEscapeIndex; ++i) {
          bits[i] = frequency[i] > 0 ? bits_of(frequency[i]) : bits[kEscapeIndex] + kShortEscapeBits;
        }
      }
      for (int scale = 0; scale < kDigitScales; ++scale) {
        for (int i = 0; i < 6; ++i)
          digits[shape][scale][i / 3][i % 3] = bits_of(kDigitFrequencies[shape][scale][i / 3][i % 3]);
      }
    }
  }
};
const CodeBits& code_bits() {
  static const CodeBits kBits;
  return kBits;
}

int varint_bytes_of(int32_t q) {
  const uint64_t folded = (static_cast<uint64_t>(std::abs(static_cast<int64_t>(q))) << 1);
  int bytes = 1;
  for (uint64_t rest = folded >> 7; rest != 0; rest >>= 7) ++bytes;
  return bytes;
}

constexpr int32_t kNear = 64;
constexpr int kNearSize = 2 * kNear + 5;  // two more on each side: the last parent's children
constexpr int kNearZero = kNear + 2;

}  // namespace

int estimated_scale(double squared_sum, uint64_t count, int levels) {
  if (count == 0 || squared_sum == 0) return 0;
  const double deviation = std::sqrt(squared_sum / static_cast<double>(count));  // in units of the finest step
  return static_cast<int>(std::lrint(kUnitScale + kScalesPerOctave * std::log2(deviation))) -
         kScalesPerThird * (levels - 1);
}

void ComponentHistogram::clear() {
  used_ = 0;
  squared_sum_ = 0;
  count_ = 0;
}

ComponentHistogram::PerClass& ComponentHistogram::of_class(int token_class) {
  for (size_t i = 0; i < used_; ++i) {
    if (classes_[i].token_class == token_class) return classes_[i];
  }
  if (used_ == classes_.size()) classes_.emplace_back();
  PerClass& entry = classes_[used_++];
  entry.token_class = token_class;
  entry.count = 0;
  entry.stages.clear();
  return entry;
}

void ComponentHistogram::add(std::span<const int32_t> q, int token_class) {
  PerClass& entry = of_class(token_class);
  entry.count += q.size();
  count_ += q.size();
  uint32_t few[2 * (kCounted + 2) + 1] = {};  // two more on each side, as below
  const uint32_t largest = kernels().count(q.data(), q.size(), few + 2);
  if (largest <= kCounted) {
    if (largest > 0) add_counts(entry, 0, few + 2 + kCounted, static_cast<int>(largest));
    return;
  }
  // Two counters each, so that equal neighbours do not wait.
  uint32_t near[2][kNearSize] = {};
  for (size_t i = 0; i < q.size(); ++i) {
    if (q[i] >= -kNear && q[i] <= kNear) {
      ++near[i % 2][q[i] + kNearZero];
    } else {
      add_large(entry, q[i]);
    }
  }
  for (int i = 0; i < kNearSize; ++i) near[0][i] += near[1][i];
  add_counts(entry, 0, near[0] + kNearZero, static_cast<int>(std::min<uint32_t>(largest, kNear)));
}

// Counts of the values -largest..largest, from stage `s` on; a parent's is its three children's.
void ComponentHistogram::add_counts(PerClass& entry, size_t s, uint32_t* count, int largest) {
  uint64_t squares = 0;
  for (int v = 1; v <= largest; ++v) squares += uint64_t{count[v] + count[-v]} * static_cast<uint64_t>(v * v);
  if (s == 0) squared_sum_ += static_cast<double>(squares) * std::ldexp(1.0, -2 * entry.token_class);
  for (;; ++s) {
    while (largest > 0 && count[largest] == 0 && count[-largest] == 0) --largest;
    if (largest == 0) return;
    if (entry.stages.size() <= s) entry.stages.resize(s + 1);
    Stage& stage = entry.stages[s];
    stage.largest = std::max(stage.largest, std::min(largest, kMaxSymbol));
    for (int v = 1; v <= largest; ++v) {
      const uint32_t both = count[v] + count[-v];
      stage.nonzero += both;
      if (v <= kMaxSymbol) {
        stage.symbols[kMaxSymbol + v] += count[v];
        stage.symbols[kMaxSymbol - v] += count[-v];
      } else {
        stage.large += both;
        stage.large_bytes += both * static_cast<uint64_t>(varint_bytes_of(v));
      }
    }
    stage.zero_digits[1] += count[1] + count[-1];
    const int parents = (largest + 1) / 3;
    for (const int sign : {1, -1}) {
      for (int p = 1; p <= parents; ++p) {
        const uint32_t toward = count[sign * (3 * p - 1)];
        const uint32_t same = count[sign * 3 * p];
        const uint32_t away = count[sign * (3 * p + 1)];
        stage.other_digits[0] += toward;
        stage.other_digits[1] += same;
        stage.other_digits[2] += away;
        count[sign * p] = toward + same + away;
      }
      count[sign * (parents + 1)] = 0;
      count[sign * (parents + 2)] = 0;
    }
    largest = parents;
  }
}

// A value beyond +-kNear, up to where its ancestors are near.
void ComponentHistogram::add_large(PerClass& entry, int32_t value) {
  const double in_steps = std::ldexp(static_cast<double>(value), -entry.token_class);
  squared_sum_ += in_steps * in_steps;
  size_t s = 0;
  int32_t at = value;
  for (; at < -kNear || at > kNear; ++s) {
    if (entry.stages.size() <= s) entry.stages.resize(s + 1);
    Stage& stage = entry.stages[s];
    const int32_t parent = parent_of(at);
    const int32_t digit = at - 3 * parent;
    ++stage.nonzero;
    ++stage.large;
    stage.large_bytes += static_cast<uint64_t>(varint_bytes_of(at));
    ++stage.other_digits[(parent > 0 ? digit : -digit) + 1];
    at = parent;
  }
  uint32_t count[kNearSize] = {};
  count[kNearZero + at] = 1;
  add_counts(entry, s, count + kNearZero, std::abs(at));
}

// Values that are zero at a stage are not counted above: their number follows from the total.
double ComponentHistogram::cost_bits(uint8_t class_byte, int scale_offset, int levels) const {
  const CodeBits& bits = code_bits();
  double total = 0;
  for (size_t c = 0; c < used_; ++c) {
    const PerClass& entry = classes_[c];
    const SymbolModel model = symbol_model(class_byte, scale_offset, entry.token_class);
    const size_t coarsest = static_cast<size_t>(levels - 1 + model.depth);
    const float* of_symbol = bits.symbols[model.shape][model.scale];
    const uint64_t nonzero = coarsest < entry.stages.size() ? entry.stages[coarsest].nonzero : 0;
    total += static_cast<double>(entry.count - nonzero) * double{of_symbol[kMaxSymbol]};
    if (coarsest < entry.stages.size()) {
      const Stage& stage = entry.stages[coarsest];
      float symbols = 0;
      for (int i = kMaxSymbol - stage.largest; i <= kMaxSymbol + stage.largest; ++i)
        symbols += static_cast<float>(stage.symbols[i]) * of_symbol[i];
      total += double{symbols} + static_cast<double>(stage.large) * double{of_symbol[kEscapeIndex]} +
               8.0 * static_cast<double>(stage.large_bytes);
    }
    for (size_t s = coarsest; s-- > 0;) {
      const float(&digits)[2][3] = bits.digits[model.shape][model.digit_scale(static_cast<int>(coarsest - s))];
      const uint64_t parents = s + 1 < entry.stages.size() ? entry.stages[s + 1].nonzero : 0;
      uint64_t born = 0;
      if (s < entry.stages.size()) {
        const Stage& stage = entry.stages[s];
        born = stage.zero_digits[1];
        for (int i = 0; i < 3; ++i) total += double{static_cast<float>(stage.other_digits[i]) * digits[1][i]};
      }
      total += static_cast<double>(born) * double{digits[0][0]};
      total += static_cast<double>(entry.count - parents - born) * double{digits[0][1]};
    }
  }
  return total;
}

// Downhill from the reference, or from where a Gaussian would stand if that is far away: the cost has one valley per
// shape, but for the few bits that leaving the reference costs, so steps of two are tried first.
std::pair<uint8_t, double> ComponentHistogram::best_class(int scale_offset, int levels, uint8_t reference) const {
  constexpr int kFar = 4;
  const auto cost_of = [&](int scale, int shape) {
    const uint8_t candidate = make_class(scale, shape);
    return cost_bits(candidate, scale_offset, levels) + class_code_bits(candidate, reference);
  };
  const int estimate = std::clamp(estimated_scale(squared_sum_, count_, levels) - scale_offset, 0, kClassScales - 1);
  int scale = reference != kDeadClass ? scale_of_class(reference) : estimate;
  int shape = reference != kDeadClass ? shape_of_class(reference) : 0;
  double best = cost_of(scale, shape);
  const auto improve = [&](int other_scale, int other_shape) {
    if (other_scale < 0 || other_scale >= kClassScales) return false;
    const double cost = cost_of(other_scale, other_shape);
    if (cost >= best) return false;
    best = cost;
    scale = other_scale;
    shape = other_shape;
    return true;
  };
  if (std::abs(scale - estimate) > kFar) improve(estimate, shape);
  const auto descend = [&] {
    for (const int step : {2, -2, 1, -1}) {
      while (improve(scale + step, shape)) {
      }
    }
  };
  descend();
  if (improve(scale, 1 - shape)) descend();
  return {make_class(scale, shape), best};
}

bool ComponentHistogram::all_zero() const { return squared_sum_ == 0; }

bool ComponentHistogram::all_zero_at(int level, int levels) const {
  const size_t stage = static_cast<size_t>(levels - 1 - level);
  return std::all_of(classes_.begin(), classes_.begin() + static_cast<std::ptrdiff_t>(used_),
                     [&](const PerClass& entry) { return entry.stages.size() <= stage; });
}

}  // namespace kvpack
