// SPDX-License-Identifier: Apache-2.0
// Keys that a blend turns from where they were cached to where they stand, against keys computed there.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "net/engine/blend_context.h"
#include "tests/must.h"
#include "tests/random_kv.h"

namespace kvpack::test {
namespace {

// Keys of one layer with one head, rotated here, pair by pair.
struct RotatedKeys {
  Rope rope;
  ModelFacts facts;
  std::vector<std::vector<float>> storage;

  static constexpr uint32_t kDim = 16;
  explicit RotatedKeys(const Rope& of) : rope(of), facts(facts_of({.layers = 1, .kv_heads = 1, .key_dim = kDim})) {
    facts.layers[0].value_dim = kDim;
    facts.ropes = {rope};
  }
  static double unrotated(int32_t token, uint32_t channel) { return std::sin(1.7 * token + 0.9 * channel + 0.3); }
  std::vector<float> key(int32_t token, int32_t position) const {
    std::vector<float> out(kDim);
    for (uint32_t c = 0; c < kDim; ++c) out[c] = static_cast<float>(unrotated(token, c));
    const auto pairs = static_cast<uint32_t>(rope.inv_freq.size());
    for (uint32_t j = 0; j < pairs; ++j) {
      const uint32_t a = rope.style == RopeStyle::kNorm ? 2 * j : j;
      const uint32_t b = rope.style == RopeStyle::kNorm ? 2 * j + 1 : j + pairs;
      const double angle = position * rope.inv_freq[j], x = unrotated(token, a), y = unrotated(token, b);
      out[a] = static_cast<float>(rope.magnitude * (x * std::cos(angle) - y * std::sin(angle)));
      out[b] = static_cast<float>(rope.magnitude * (x * std::sin(angle) + y * std::cos(angle)));
    }
    return out;
  }
  // Tokens [begin, end), cached as if they stood at the beginning.
  BlendChunk chunk(int32_t begin, int32_t end) {
    BlendChunk made{"chunk", {}, {}};
    TokenSet set;
    std::vector<float> keys;
    for (int32_t token = begin; token < end; ++token) {
      made.tokens.push_back(token);
      set.positions.push_back(token - begin);
      const std::vector<float> row = key(token, token - begin);
      keys.insert(keys.end(), row.begin(), row.end());
    }
    made.tensor.token_sets.push_back(set);
    for (const Side side : {Side::kKey, Side::kValue}) {
      storage.push_back(keys);
      auto* const bytes = reinterpret_cast<std::byte*>(storage.back().data());
      made.tensor.planes.push_back(
          {0, side, 0, 0, make_row_view(bytes, DType::kF32, static_cast<uint32_t>(end - begin), 1, kDim)});
    }
    return made;
  }
};

TEST_CASE("blend: turned keys are those computed at their new positions, for both styles of RoPE and scaled ones") {
  Rope linear = plain_rope(RopeStyle::kNorm, 16), yarn = linear;
  for (double& frequency : linear.inv_freq) frequency /= 8;
  for (size_t j = 0; j < yarn.inv_freq.size(); ++j) yarn.inv_freq[j] /= 1 + 0.5 * static_cast<double>(j);
  yarn.magnitude = 1.14;
  for (Rope rope : {plain_rope(RopeStyle::kNorm, 16), plain_rope(RopeStyle::kNorm, 8), linear, yarn}) {
    for (const RopeStyle style : {RopeStyle::kNorm, RopeStyle::kNeox}) {
      rope.style = style;
      RotatedKeys keys(rope);
      const BlendChunk front = keys.chunk(0, 700), back = keys.chunk(700, 730);
      const JoinedContext joined = must(JoinedContext::join({front, back}, {}, keys.facts, {0, true}));
      std::vector<float> row(RotatedKeys::kDim);
      double worst = 0, moved = 0;
      for (int32_t token = 0; token < 730; ++token) {
        load_values(joined.tensor().planes[0].view, static_cast<uint32_t>(token), 1, row.data());
        const std::vector<float> expected = keys.key(token, token), before = keys.key(token, std::max(0, token - 700));
        for (uint32_t c = 0; c < RotatedKeys::kDim; ++c) {
          worst = std::max(worst, std::abs(double{row[c]} - double{expected[c]}));
          if (token >= 700) moved = std::max(moved, std::abs(double{before[c]} - double{expected[c]}));
        }
      }
      CHECK(worst < 1e-5);
      CHECK(moved > 0.5);
    }
  }
}

}  // namespace
}  // namespace kvpack::test
