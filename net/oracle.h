// SPDX-License-Identifier: Apache-2.0
// The best that anyone could have done who knew the trace in advance: a bound, by dynamic programme.
//
// All that counts at the deadline is which bytes have arrived, and the trace says how many can have. The engine
// recomputes as many chunks of the front as it can; of the others each gets a number of levels, so that distortion is
// least: a multiple-choice knapsack, solved on a grid of bytes. Sizes are rounded down to the grid and the decoder is
// taken to be infinitely fast, so no policy can do better.
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
  // The same for a number of bytes of levels.
  Answer solve(double bytes) const;

 private:
  const Scenario scenario_;
  uint32_t front_ = 0;       // chunks that the engine can recompute
  uint64_t base_bytes_ = 0;  // of the others
  double cell_bytes_ = 1;
  std::vector<double> best_;                  // [cells used at most] least distortion
  std::vector<std::vector<uint8_t>> choice_;  // [chunk - front][cells] levels in that solution
};

}  // namespace kvpack
