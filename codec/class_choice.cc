// SPDX-License-Identifier: Apache-2.0
#include "codec/class_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "codec/class_code.h"
#include "codec/entropy_tables.h"
#include "codec/quantizer.h"

namespace kvpack {
namespace {

// -log2(n / 256) for n in 1..256.
const std::array<float, 257>& bits_of_frequency() {
  static const std::array<float, 257> kBits = [] {
    std::array<float, 257> bits{};
    for (int n = 1; n <= 256; ++n) bits[n] = 8.0f - std::log2(static_cast<float>(n));
    return bits;
  }();
  return kBits;
}

int varint_bytes_of(int32_t q) {
  const uint64_t folded = (static_cast<uint64_t>(std::abs(static_cast<int64_t>(q))) << 1);
  int bytes = 1;
  for (uint64_t rest = folded >> 7; rest != 0; rest >>= 7) ++bytes;
  return bytes;
}

// The escape code's own bits: at most one byte for |q| <= 7.
constexpr double kShortEscapeBits = 8;
constexpr int kSearchRadius = 10;

}  // namespace

ComponentHistogram::PerClass& ComponentHistogram::of_class(int token_class) {
  for (PerClass& entry : classes_) {
    if (entry.token_class == token_class) return entry;
  }
  classes_.push_back({token_class, 0, {}});
  return classes_.back();
}

void ComponentHistogram::add(std::span<const int32_t> q, int token_class) {
  PerClass& entry = of_class(token_class);
  entry.count += q.size();
  count_ += q.size();
  // Values repeat: each one's ancestors are followed once. Two counters each, so that equal neighbours do not wait.
  constexpr int32_t kNear = 64;
  std::array<std::array<uint32_t, 2 * kNear>, 2> near{};
  for (size_t i = 0; i < q.size(); ++i) {
    if (q[i] >= -kNear && q[i] < kNear) {
      ++near[i % 2][static_cast<size_t>(q[i] + kNear)];
    } else {
      add_value(entry, q[i], 1);
    }
  }
  for (int32_t value = -kNear; value < kNear; ++value) {
    const uint32_t count = near[0][static_cast<size_t>(value + kNear)] + near[1][static_cast<size_t>(value + kNear)];
    if (count > 0 && value != 0) add_value(entry, value, count);
  }
}

void ComponentHistogram::add_value(PerClass& entry, int32_t value, uint32_t count) {
  const double in_steps = std::ldexp(static_cast<double>(value), -entry.token_class);
  squared_sum_ += count * (in_steps * in_steps);
  int32_t at = value;
  for (size_t s = 0; at != 0; ++s) {
    if (entry.stages.size() <= s) entry.stages.resize(s + 1);
    Stage& stage = entry.stages[s];
    if (std::abs(at) <= kMaxSymbol) {
      stage.symbols[at + kMaxSymbol] += count;
    } else {
      stage.large += count;
      stage.large_bytes += count * static_cast<uint64_t>(varint_bytes_of(at));
    }
    const int32_t parent = parent_of(at);
    const int32_t digit = at - 3 * parent;
    if (parent == 0) {
      stage.zero_digits[1] += count;  // at != 0, so r != 0
    } else {
      stage.other_digits[(parent > 0 ? digit : -digit) + 1] += count;
    }
    at = parent;
  }
}

// Values that are zero at a stage are not counted above: their number follows from the total.
double ComponentHistogram::cost_bits(uint8_t class_byte, int scale_offset, int levels) const {
  const auto& bits = bits_of_frequency();
  double total = 0;
  for (const PerClass& entry : classes_) {
    const SymbolModel model = symbol_model(class_byte, scale_offset, entry.token_class);
    const int coarsest = levels - 1 + model.depth;
    const auto nonzero_at = [&](int s) -> uint64_t {
      if (s >= static_cast<int>(entry.stages.size())) return 0;
      const Stage& stage = entry.stages[s];
      uint64_t n = stage.large;
      for (const uint32_t count : stage.symbols) n += count;
      return n;
    };
    const uint8_t* frequency = kSymbolFrequencies[model.shape][model.scale];
    const double escape_bits = bits[frequency[kEscapeIndex]];
    total += static_cast<double>(entry.count - nonzero_at(coarsest)) * bits[frequency[kMaxSymbol]];
    if (coarsest < static_cast<int>(entry.stages.size())) {
      const Stage& stage = entry.stages[coarsest];
      for (int i = 0; i < 15; ++i) {
        if (stage.symbols[i] == 0) continue;
        total += stage.symbols[i] * (frequency[i] > 0 ? bits[frequency[i]] : escape_bits + kShortEscapeBits);
      }
      total += static_cast<double>(stage.large) * escape_bits + 8.0 * static_cast<double>(stage.large_bytes);
    }
    for (int s = coarsest - 1; s >= 0; --s) {
      const uint8_t(&digits)[2][3] = kDigitFrequencies[model.shape][model.digit_scale(coarsest - s)];
      const uint64_t parents = nonzero_at(s + 1);
      uint64_t born = 0;
      if (s < static_cast<int>(entry.stages.size())) {
        const Stage& stage = entry.stages[s];
        born = stage.zero_digits[1];
        for (int i = 0; i < 3; ++i) total += stage.other_digits[i] * bits[digits[1][i]];
      }
      total += static_cast<double>(born) * bits[digits[0][0]];
      total += static_cast<double>(entry.count - parents - born) * bits[digits[0][1]];
    }
  }
  return total;
}

int ComponentHistogram::estimated_scale(int levels) const {
  if (count_ == 0 || squared_sum_ == 0) return 0;
  const double deviation = std::sqrt(squared_sum_ / static_cast<double>(count_));  // in units of the finest step
  return static_cast<int>(std::lrint(kUnitScale + kScalesPerOctave * std::log2(deviation))) -
         kScalesPerThird * (levels - 1);
}

std::pair<uint8_t, double> ComponentHistogram::best_class(int scale_offset, int levels, uint8_t reference) const {
  uint8_t best = reference == kDeadClass ? make_class(0, 0) : reference;
  double best_cost = cost_bits(best, scale_offset, levels) + class_code_bits(best, reference);
  const int around = std::clamp(estimated_scale(levels) - scale_offset, 0, kClassScales - 1);
  for (int scale = std::max(0, around - kSearchRadius); scale <= std::min(kClassScales - 1, around + kSearchRadius);
       ++scale) {
    for (int shape = 0; shape < kShapes; ++shape) {
      const uint8_t candidate = make_class(scale, shape);
      const double cost = cost_bits(candidate, scale_offset, levels) + class_code_bits(candidate, reference);
      if (cost < best_cost) {
        best = candidate;
        best_cost = cost;
      }
    }
  }
  return {best, best_cost};
}

bool ComponentHistogram::all_zero() const { return squared_sum_ == 0; }

bool ComponentHistogram::all_zero_at(int level, int levels) const {
  const size_t stage = static_cast<size_t>(levels - 1 - level);
  return std::all_of(classes_.begin(), classes_.end(),
                     [&](const PerClass& entry) { return entry.stages.size() <= stage; });
}

}  // namespace kvpack
