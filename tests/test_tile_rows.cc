// SPDX-License-Identifier: Apache-2.0
// The inverse of a matrix where sums fit 32 bits, where they do not, and where units do not fit 16 bits.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "codec/tile_rows.h"

using namespace kvpack;

TEST_CASE("rows of a matrix: exact sums for units of any size") {
  constexpr uint32_t kDim = 8;
  constexpr uint32_t kTokens = 40;  // a whole group and a part of one
  std::mt19937 random(5);
  PlaneShape shape;
  shape.kv_heads = 1;
  shape.head_dim = kDim;
  shape.dtype = DType::kF32;
  PlaneParameters parameters;
  parameters.transform = TransformKind::kMatrix;
  parameters.step = {0.5f};
  HeadMatrix matrix;
  matrix.components = kDim - 1;
  for (uint32_t k = 0; k < matrix.components; ++k) matrix.scale.push_back(std::ldexp(1.0f, -static_cast<int>(k % 3)));
  for (uint32_t i = 0; i < matrix.components * kDim; ++i) {
    matrix.rows.push_back(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
  }
  parameters.matrices = {matrix};
  for (uint32_t d = 0; d < kDim; ++d) parameters.mean_values.push_back(static_cast<float>(d));
  REQUIRE(resolve_weights(parameters, shape, nullptr).ok());
  const std::vector<int32_t> positions(kTokens);
  const TileContext context{shape, parameters, nullptr, positions, {}};
  for (const int32_t most : {7, 32767, 1 << 20}) {  // sums of 7 x 32,767 need more than 32 bits
    CAPTURE(most);
    QuantizedTile tile = make_quantized_tile(parameters, shape, kTokens, {});
    for (int32_t& q : tile.q) q = most - static_cast<int32_t>(random() % 3);
    std::vector<float> decoded(size_t{kTokens} * kDim);
    const LowRankFactors low_rank;
    TileRows rows;
    rows.open(context, 0, tile.order, low_rank,
              make_row_view<std::byte>(reinterpret_cast<std::byte*>(decoded.data()), DType::kF32, kTokens, 1, kDim));
    rows.put_group(tile, 0);
    rows.put_group(tile, 1);
    rows.finish();
    const PairedWeights& weights = parameters.weights[0];
    for (uint32_t token = 0; token < kTokens; ++token) {
      for (uint32_t d = 0; d < kDim; ++d) {
        int64_t sum = 0;
        for (uint32_t k = 0; k < matrix.components; ++k) {
          sum += int64_t{tile.values(k)[token]} * weights.pairs[(size_t{k / 2} * kDim + d) * 2 + k % 2];
        }
        CHECK(decoded[token * kDim + d] ==
              std::fma(static_cast<float>(sum), 0.5f * weights.unit, static_cast<float>(d)));
      }
    }
  }
}
