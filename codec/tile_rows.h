// SPDX-License-Identifier: Apache-2.0
// Groups of quantized values back to rows: units, inverse transform, mean, RoPE, rounding, one head's 32 tokens at a
// time, so that everything in between stays in the nearest cache.
//
//   units   q                                [component][32]
//   sums    of units times the matrix's rows, one fused multiply-add each, components in order; or the
//           Hadamard butterflies; or the units themselves
//   value   fused: sum x (step / 3^level / 2^class, for Hadamard times block^-1/2) + mean
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
  // `classes` [component over all heads]: dead ones cost nothing. All references must outlive the object's use.
  void open(const TileContext& context, uint32_t level, std::span<const uint8_t> classes,
            std::span<const LaneOrder> order, const LowRankFactors& low_rank, const MutableKvView& rows);
  // Writes the rows of group `group`.
  void put_group(const TileSymbols& symbols, uint32_t group);
  void put_group(const QuantizedTile& tile, uint32_t group);
  // After the last group.
  void finish();

 private:
  struct Head {
    uint32_t first_component = 0;       // over all heads
    std::vector<uint32_t> live;         // components of the head, ascending; all of them without a matrix
    std::vector<const float*> weights;  // [live][head_dim]
    float step = 0;                     // of one unit, in token class 0
  };
  void open_head(uint32_t head, std::span<const uint8_t> classes);
  // units_ holds the components of weights_now_, or all channels, [component][32].
  void put_head(uint32_t head, uint32_t group);
  uint32_t scales_of(uint32_t head, uint32_t group, float* scale) const;
  bool store_plain(const TileSymbols& symbols, uint32_t head, uint32_t group);
  void gather(const TileSymbols& symbols, uint32_t head);
  void gather(const QuantizedTile& tile, uint32_t head, uint32_t group);
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
  std::vector<float> weights_;  // [component over all heads][head_dim], matrix only
  std::vector<float> mean_;     // [channel]
  std::vector<float> units_;    // [live][32]
  // Of the group in work: its components that are not all zero.
  std::vector<uint32_t> kept_;  // indices of `live`
  std::vector<const float*> weights_now_;
  std::vector<float> rows_;      // [32][head_dim]
  std::vector<float> all_rows_;  // [token][channel]
  std::vector<uint16_t> halves_;
};

}  // namespace kvpack
