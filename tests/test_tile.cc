// SPDX-License-Identifier: Apache-2.0
// Tiles behind the checksums: a decoder must survive any bytes, because an archive can be forged with valid checksums.
#include <doctest/doctest.h>

#include <random>

#include "codec/parameter_choice.h"
#include "codec/plane_parameters.h"
#include "codec/rate_control.h"
#include "codec/tile.h"
#include "tests/random_kv.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

struct TileUnderTest {
  KvFile file;
  ModelFacts facts;
  PlaneShape shape;
  ParameterChoice choice;
  EncodedTile tile;

  TileUnderTest(const RandomShape& random_shape, Quality quality, TransformChoice transform, uint32_t low_rank = 0)
      : file(random_kv_file(random_shape)), facts(facts_of(random_shape)) {
    const KvPlane& plane = file.tensor.planes[0];
    shape = {0, Side::kKey, 0, 0, plane.view.kv_heads, plane.view.head_dim, plane.view.dtype, 0};
    const auto& positions = file.tensor.token_sets[0].positions;
    if (quality == Quality::kLossless) {
      choice.parameters.lossless = true;
    } else {
      const auto stats = measure_plane(plane.view, &facts.ropes[0], positions, {}, true);
      choice = choose_parameters(stats, step_rule_of(quality), {}, transform, low_rank);
    }
    std::vector<int8_t> classes(size_t{random_shape.tokens} * shape.kv_heads);
    for (size_t i = 0; i < classes.size(); ++i) classes[i] = static_cast<int8_t>(static_cast<int>(i % 8) - 4);
    Result<EncodedTile> encoded =
        encode_tile(context(), {plane.view, choice.forward, 0, {}, classes, 0}, Measuring::kNone);
    REQUIRE(encoded.ok());
    tile = std::move(encoded).value();
  }
  TileContext context() const {
    return {shape, choice.parameters, &facts.ropes[0], file.tensor.token_sets[0].positions, {}};
  }
  Status decode(const std::vector<Bytes>& levels) const {
    std::vector<ByteSpan> spans(levels.begin(), levels.end());
    const uint32_t tokens = static_cast<uint32_t>(context().positions.size());
    Bytes storage(size_t{tokens} * shape.channels() * 4);
    return decode_tile(context(), spans,
                       make_row_view<std::byte>(storage.data(), shape.dtype, tokens, shape.kv_heads, shape.head_dim));
  }
};

RandomShape small_shape() {
  RandomShape shape;
  shape.tokens = 70;
  shape.layers = 1;
  shape.key_dim = shape.value_dim = 8;
  return shape;
}

}  // namespace

TEST_CASE("tiles cut short or extended are errors") {
  for (const Quality quality : {Quality::kLossless, Quality::kHigh}) {
    const TileUnderTest test(small_shape(), quality, TransformChoice::kKlt, 2);
    REQUIRE(test.decode(test.tile.levels).ok());
    for (size_t level = 0; level < test.tile.levels.size(); ++level) {
      for (size_t length = 0; length < test.tile.levels[level].size(); ++length) {
        std::vector<Bytes> levels = test.tile.levels;
        levels[level].resize(length);
        CHECK(!test.decode(levels).ok());
      }
      std::vector<Bytes> levels = test.tile.levels;
      levels[level].push_back(std::byte{0});
      CHECK(!test.decode(levels).ok());
    }
  }
}

TEST_CASE("a lossless tile is put where rows lie in another order than their tokens") {
  const TileUnderTest test(small_shape(), Quality::kLossless, TransformChoice::kNone);
  const uint32_t tokens = static_cast<uint32_t>(test.context().positions.size());
  std::vector<uint32_t> row_of_token(tokens);
  for (uint32_t t = 0; t < tokens; ++t) row_of_token[t] = (t + 11) % tokens;
  Bytes storage(size_t{tokens} * test.shape.channels() * 4);
  auto rows =
      make_row_view<std::byte>(storage.data(), test.shape.dtype, tokens, test.shape.kv_heads, test.shape.head_dim);
  rows.row_of_token = row_of_token.data();
  const ByteSpan level(test.tile.levels[0]);
  REQUIRE(decode_tile(test.context(), {&level, 1}, rows).ok());
  const KvView& source = test.file.tensor.planes[0].view;
  Bytes expected(tokens * source.packed_row_bytes());
  Bytes found(expected.size());
  load_raw(source, 0, tokens, expected.data());
  load_raw(rows, 0, tokens, found.data());
  CHECK(found == expected);
}

TEST_CASE("damaged tiles end in an error or in values, never in a crash") {
  std::mt19937 random(7);
  for (const Quality quality : {Quality::kLossless, Quality::kLow, Quality::kHigh}) {
    for (const TransformChoice transform : {TransformChoice::kHadamard, TransformChoice::kKlt}) {
      const TileUnderTest test(small_shape(), quality, transform, transform == TransformChoice::kKlt ? 2 : 0);
      for (int trial = 0; trial < 3000; ++trial) {
        std::vector<Bytes> levels = test.tile.levels;
        for (int n = 0; n < 1 + trial % 4; ++n) {
          Bytes& level = levels[random() % levels.size()];
          if (!level.empty())
            level[random() % std::min<size_t>(level.size(), trial % 2 ? 64 : 1 << 20)] =
                static_cast<std::byte>(random());
        }
        (void)test.decode(levels);
      }
    }
  }
}

TEST_CASE("damaged plane parameters end in an error or decode without a crash") {
  std::mt19937 random(8);
  TileUnderTest test(small_shape(), Quality::kHigh, TransformChoice::kKlt);
  ByteWriter writer;
  write_plane_parameters(test.choice.parameters, writer);
  const Bytes good = writer.take();
  REQUIRE(read_plane_parameters(good, test.shape, nullptr).ok());
  for (size_t length = 0; length < good.size(); ++length) {
    CHECK(!read_plane_parameters(ByteSpan(good).first(length), test.shape, nullptr).ok());
  }
  for (int trial = 0; trial < 5000; ++trial) {
    Bytes bad = good;
    bad[random() % std::min<size_t>(bad.size(), trial % 2 ? 48 : 1 << 20)] = static_cast<std::byte>(random());
    Result<PlaneParameters> parameters = read_plane_parameters(bad, test.shape, nullptr);
    if (!parameters.ok()) continue;
    test.choice.parameters = std::move(parameters).value();
    if (test.choice.parameters.levels <= test.tile.levels.size()) (void)test.decode(test.tile.levels);
  }
}
