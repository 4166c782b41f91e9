// SPDX-License-Identifier: Apache-2.0
// Tiles read group by group against the same tiles read lane by lane, wide values included, and two tiles in lockstep
// against one after the other.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <random>

#include "codec/entropy_tables.h"
#include "codec/level_code.h"
#include "codec/tile.h"
#include "codec/tile_symbols.h"
#include "tests/must.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

using Random = std::mt19937;

struct CodedTile {
  PlaneShape shape;
  PlaneParameters parameters;
  uint32_t tokens = 0;
  std::vector<int8_t> token_classes;
  QuantizedTile tile;
  std::vector<Bytes> bodies;
};

// Heads of channels whose values spread over anything from nothing to `largest` steps.
CodedTile coded_tile(Random& random, uint32_t tokens, uint32_t levels, double largest, bool with_classes) {
  CodedTile of;
  of.tokens = tokens;
  of.shape = {0, Side::kKey, 0, -1, 2, 24, DType::kF16, 0};
  of.parameters.levels = levels;
  of.parameters.step = {0.5f, 0.25f};
  of.parameters.mean.assign(of.shape.channels(), 3);
  must(resolve_mean(of.parameters, of.shape, nullptr));
  of.parameters.scale_offset = std::min(kMaxScaleOffset, static_cast<int>(std::lrint(12 * std::log2(largest + 1))));
  of.parameters.classes.assign(2, std::vector<uint8_t>(24, make_class(60, 0)));
  if (with_classes) {
    for (uint32_t i = 0; i < 2 * tokens; ++i) of.token_classes.push_back(static_cast<int8_t>(random() % 8) - 4);
  }
  of.tile = make_quantized_tile(of.parameters, of.shape, tokens, of.token_classes);
  std::normal_distribution<double> normal;
  for (uint32_t c = 0; c < of.tile.components(); ++c) {
    if (random() % 6 == 0) continue;  // dead
    const double spread = std::pow(largest, (random() % 100) / 100.0) * (random() % 4 == 0 ? 0.1 : 1);
    for (int32_t& q : of.tile.values(c)) {
      q = static_cast<int32_t>(std::lrint(spread * normal(random) * (random() % 50 == 0 ? 20 : 1)));
    }
  }
  of.bodies = encode_levels(of.tile, of.parameters);
  return of;
}

// decode_tile's input: what stands before the bodies is empty but for the token classes.
std::vector<Bytes> tile_levels(const CodedTile& of) {
  ByteWriter base;
  base.write(static_cast<uint8_t>(TileMode::kQuantized));
  base.write<uint8_t>(0);
  base.write<uint8_t>(0);
  write_token_classes(of.token_classes.empty() ? TokenClassSource::kNone : TokenClassSource::kOwn, of.token_classes,
                      of.shape.kv_heads, base);
  base.write_bytes(of.bodies[0]);
  std::vector<Bytes> levels = of.bodies;
  levels[0] = base.take();
  return levels;
}

}  // namespace

TEST_CASE("groups read side by side give the values of levels read lane by lane") {
  Random random(21);
  uint32_t wide = 0;
  uint32_t narrow = 0;
  for (int round = 0; round < 60; ++round) {
    const uint32_t tokens = std::array{1u, 20u, 32u, 70u, 256u}[random() % 5];
    const uint32_t levels = 1 + random() % 4;
    const double largest = std::array{0.4, 3.0, 40.0, 3000.0, 1e6}[random() % 5];
    const CodedTile of = coded_tile(random, tokens, levels, largest, round % 2 == 0);
    CAPTURE(tokens);
    CAPTURE(levels);
    CAPTURE(largest);
    const uint32_t wanted = 1 + random() % levels;
    QuantizedTile expected = make_quantized_tile(of.parameters, of.shape, tokens, of.token_classes);
    for (uint32_t level = 0; level < wanted; ++level) {
      ByteReader in(of.bodies[level]);
      must(decode_level(in, level, of.parameters, expected));
    }
    if (wanted == levels) CHECK(expected.q == of.tile.q);
    const auto symbols = std::make_unique<TileSymbols>();
    const std::vector<ByteSpan> bodies(of.bodies.begin(), of.bodies.begin() + wanted);
    must(symbols->open(bodies, of.parameters, of.shape, expected.order, tokens));
    bool same = true;
    for (uint32_t group = 0; group < symbols->groups() && !symbols->wide(); ++group) {
      must(symbols->decode_group(group));
      for (uint32_t c = 0; c < expected.components() && !symbols->wide(); ++c) {
        for (uint32_t slot = group * kLanes; slot < std::min<uint32_t>(tokens, (group + 1) * kLanes); ++slot) {
          same = same && symbols->values(c)[slot % kLanes] == expected.values(c)[slot];
        }
      }
    }
    CHECK(same);
    ++(symbols->wide() ? wide : narrow);
    if (!symbols->wide()) must(symbols->finish());
  }
  CHECK(wide > 3);
  CHECK(narrow > 20);
}

TEST_CASE("two tiles in lockstep decode as one after the other") {
  Random random(22);
  for (int round = 0; round < 30; ++round) {
    CodedTile tiles[2];
    Bytes alone[2];
    Bytes together[2];
    std::vector<Bytes> levels[2];
    std::vector<ByteSpan> spans[2];
    for (int i = 0; i < 2; ++i) {
      const double largest = std::array{0.4, 3.0, 40.0, 1e6}[random() % 4];
      tiles[i] =
          coded_tile(random, std::array{20u, 70u, 256u}[random() % 3], 1 + random() % 3, largest, random() % 2 == 0);
      levels[i] = tile_levels(tiles[i]);
      spans[i].assign(levels[i].begin(), levels[i].end());
      alone[i].resize(size_t{tiles[i].tokens} * tiles[i].shape.channels() * 2);
      together[i].resize(alone[i].size());
    }
    std::vector<int32_t> positions(256);
    const auto context_of = [&](int i) {
      return TileContext{
          tiles[i].shape, tiles[i].parameters, nullptr, std::span<const int32_t>(positions).first(tiles[i].tokens), {}};
    };
    const auto rows_of = [&](int i, Bytes& bytes) {
      return make_row_view<std::byte>(bytes.data(), DType::kF16, tiles[i].tokens, 2, 24);
    };
    const TileContext a = context_of(0);
    const TileContext b = context_of(1);
    must(decode_tile(a, spans[0], rows_of(0, alone[0])));
    must(decode_tile(b, spans[1], rows_of(1, alone[1])));
    const TileJob jobs[] = {{a, spans[0], rows_of(0, together[0])}, {b, spans[1], rows_of(1, together[1])}};
    for (const Status& status : decode_tiles(jobs)) must(status);
    CHECK(together[0] == alone[0]);
    CHECK(together[1] == alone[1]);
    // A damaged partner is an error, never a crash.
    levels[1][0].resize(levels[1][0].size() / 2);
    spans[1][0] = levels[1][0];
    const auto statuses = decode_tiles(jobs);
    CHECK_FALSE(statuses[1].ok());
  }
}
