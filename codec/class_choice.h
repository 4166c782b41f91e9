// SPDX-License-Identifier: Apache-2.0
// Which class byte codes a component's symbols in the fewest bits: the encoder's side of entropy_tables.h. Costs are
// those of the very tables that the coder uses, over all levels of the ladder.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace kvpack {

// Scale index at level 0 that a Gaussian of this variance would have, without offset. `squared_sum`: over `count`
// values, of how many finest steps of class 0 they are.
int estimated_scale(double squared_sum, uint64_t count, int levels);

// Histograms of one component at every rung of the ladder: stage 0 is the finest level, stage s its s-th parent.
class ComponentHistogram {
 public:
  // As new, without giving memory back.
  void clear();
  // Adds quantized values at the finest level that are coded under `token_class`.
  void add(std::span<const int32_t> q, int token_class);

  // Bits that `class_byte` (not dead) needs for everything, levels 0 .. levels - 1 together; infinity if it cannot.
  double cost_bits(uint8_t class_byte, int scale_offset, int levels) const;
  // A cheap class byte, the cheapest but for rare local minima, and its bits. `reference` (or dead) costs one bit
  // itself, others more, as in class_code.h.
  std::pair<uint8_t, double> best_class(int scale_offset, int levels, uint8_t reference) const;
  // Every value is zero at the finest level.
  bool all_zero() const;
  // Every value is zero at `level` of `levels`.
  bool all_zero_at(int level, int levels) const;

 private:
  struct Stage {
    uint64_t nonzero = 0;
    std::array<uint32_t, 15> symbols{};      // q + 7, where |q| <= 7
    int largest = 0;                         // of those symbols' magnitudes
    uint64_t large = 0;                      // values beyond +-7
    uint64_t large_bytes = 0;                // their escapes' varint bytes
    std::array<uint32_t, 2> zero_digits{};   // digits under a zero parent: r == 0, r != 0
    std::array<uint32_t, 3> other_digits{};  // digits under another parent: toward zero, 0, away
  };
  struct PerClass {
    int token_class = 0;
    uint64_t count = 0;
    std::vector<Stage> stages;
  };
  PerClass& of_class(int token_class);
  void add_counts(PerClass& entry, size_t s, uint32_t* count, int largest);
  void add_large(PerClass& entry, int32_t value);

  std::vector<PerClass> classes_;  // the first used_ count
  size_t used_ = 0;
  double squared_sum_ = 0;
  uint64_t count_ = 0;
};

}  // namespace kvpack
