// SPDX-License-Identifier: Apache-2.0
// Groups of quantized values back to rows: units, inverse transform, mean, RoPE, rounding, one head's 32 tokens at a
// time, so that everything in between stays in the nearest cache.
//
//   units   q                                [component][32]
//   sums    of units times the matrix's weights, in integers; or the Hadamard butterflies; or the units themselves
//   value   fused: sum x (step / 3^level / 2^class, times the weights' unit, or block^-1/2 for Hadamard) + mean
//   then    the low-rank product is added, keys are turned, and the value is rounded to its type
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/low_rank.h"
#include "codec/rope.h"
#include "codec/tile.h"
#include "codec/tile_symbols.h"

namespace kvpack {

class TileRows {
 public:
  // All references must outlive the object's use.
  void open(const TileContext& context, uint32_t level, std::span<const LaneOrder> order,
            const LowRankFactors& low_rank, const MutableKvView& rows);
  // Writes the rows of group `group`.
  void put_group(const TileSymbols& symbols, uint32_t group);
  void put_group(const QuantizedTile& tile, uint32_t group);
  // After the last group.
  void finish();

 private:
  struct Head {
    uint32_t first_component = 0;  // over all heads
    uint32_t components = 0;
    float step = 0;  // of one unit of the sums, in token class 0
  };
  // q [component of the head][32]
  void put_head(const int16_t* q, uint32_t head, uint32_t group);
  void put_wide_head(std::span<const int32_t> q, uint32_t head, uint32_t group);
  // From the channels' units, or from the rows, to the output.
  void finish_units(uint32_t head, uint32_t group);
  void finish_rows(uint32_t head, uint32_t group);
  uint32_t scales_of(uint32_t head, uint32_t group, float* scale) const;
  bool store_plain(const TileSymbols& symbols, uint32_t head, uint32_t group);
  void store_rows(uint32_t head, std::span<const uint32_t> tokens);

  const TileContext* context_ = nullptr;
  const LowRankFactors* low_rank_ = nullptr;
  const RopeRotation* rotation_ = nullptr;
  std::span<const LaneOrder> order_;
  MutableKvView out_;
  uint32_t level_ = 0;
  bool direct_ = false;  // rows go to out_ at once, not by way of all_rows_
  bool plain_ = false;   // nothing to do but scale, offset and round to 16 bits
  std::vector<Head> heads_;
  std::vector<float> mean_;      // [channel]
  std::vector<float> units_;     // [channel][32], without a matrix
  std::vector<int16_t> pairs_;   // [pair of components][32][2], with one
  std::vector<uint64_t> used_;   // of pair_units
  std::vector<int16_t> narrow_;  // [component][32]
  std::vector<int32_t> wide_;
  std::vector<float> rows_;      // [32][head_dim]
  std::vector<float> all_rows_;  // [token][channel]
  std::vector<uint16_t> halves_;
};

}  // namespace kvpack
