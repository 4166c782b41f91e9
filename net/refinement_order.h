// SPDX-License-Identifier: Apache-2.0
// Which refinement to fetch first: the one that removes most distortion per byte. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "net/context_costs.h"
#include "net/planner.h"

namespace kvpack {

struct Refinement {
  uint32_t level = 0;
  uint32_t chunk = 0;
  uint64_t bytes = 0;
  double removed_per_byte = 0;
};

// Every level above `levels_held` of the chunks from `first_chunk` on, best first, levels of a chunk in order. A level
// that removes little but must precede one that removes much is rated together with it (the upper convex hull of
// distortion over bytes), which makes the greedy order optimal wherever the budget ends at a step of it.
std::vector<Refinement> refinement_order(const ContextCosts& costs, const std::vector<uint8_t>& levels_held,
                                         uint32_t first_chunk);

// The refinements as few contiguous ranges: runs of chunks, level by level.
std::vector<RangeStep> coalesce(std::vector<Refinement> refinements);

}  // namespace kvpack
