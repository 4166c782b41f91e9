// SPDX-License-Identifier: Apache-2.0
// The best that anyone could have done who knew the trace in advance: a bound, by dynamic programme.
//
// All that counts at the deadline is which bytes have arrived, and the trace says how many can have. Once the archive is
// open (it holds the tokens) the engine recomputes as many chunks of the front as it can; of the others each gets a
// number of levels, so that distortion is least: a multiple-choice knapsack, solved on a grid of bytes. Sizes are
// rounded down to the grid and decoding takes no more than its tail, so no policy that recomputes from the front can do
// better.
#pragma once

#include <cstdint>
#include <vector>

#include "net/simulator.h"

namespace kvpack {

class Oracle {
 public:
  // `grid`: cells of the byte grid over the whole archive. Errors of rounding: chunks / grid of all bytes at most.
  explicit Oracle(const Scenario& scenario, uint32_t grid = 32768);

  struct Answer {
    bool meets_deadline = false;
    double distortion = 0;             // if it does
    std::vector<ChunkAction> actions;  // [chunk]
  };
  Answer solve(const BandwidthTrace& trace, double start_s) const;
  // With `bytes` bytes of levels, and that many chunks recomputed.
  Answer solve(double bytes, uint32_t front) const;

 private:
  uint32_t reachable_front(double engine_s) const;

  const Scenario scenario_;
  double cell_bytes_ = 1;
  std::vector<std::vector<double>> best_;     // [chunk][cells used at most] least distortion of it and those after it
  std::vector<std::vector<uint8_t>> choice_;  // [chunk][cells] its levels in that solution
};

}  // namespace kvpack
