// SPDX-License-Identifier: Apache-2.0
// KV-like test data: correlated channels with their own means, a sink, RoPE applied to keys.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "codec/rope.h"
#include "formats/kv_file.h"
#include "formats/kv_tensor.h"

namespace kvpack::test {

struct RandomShape {
  uint32_t layers = 2;
  uint32_t tokens = 300;
  uint32_t kv_heads = 2;
  uint32_t key_dim = 64;
  uint32_t value_dim = 64;
  DType dtype = DType::kF16;
  bool sink = false;
  double mean_scale = 3;
  uint32_t seed = 1;
};

inline Rope plain_rope(RopeStyle style, uint32_t dims, double base = 10000) {
  Rope rope;
  rope.style = style;
  rope.base = base;
  for (uint32_t j = 0; j < dims / 2; ++j) rope.inv_freq.push_back(std::pow(base, -2.0 * j / dims));
  return rope;
}

inline ModelFacts facts_of(const RandomShape& shape) {
  ModelFacts facts;
  facts.architecture = "llama";
  facts.name = "random";
  facts.fingerprint = "gguf:00000000000000000000000000000000";
  facts.ropes.push_back(plain_rope(RopeStyle::kNorm, shape.key_dim / 2 * 2));
  facts.layers.assign(shape.layers, LayerFacts{shape.kv_heads, shape.key_dim, shape.value_dim, 0, false, false});
  return facts;
}

// A KvFile without a container: enough for the codec.
inline KvFile random_kv_file(const RandomShape& shape) {
  std::mt19937 random(shape.seed);
  std::normal_distribution<float> normal;
  KvFile file;
  file.description = "random values";
  TokenSet set;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    set.positions.push_back(static_cast<int32_t>(t));
    file.tokens.push_back(static_cast<int32_t>(random() % 1000));
  }
  const ModelFacts facts = facts_of(shape);
  file.tensor.token_sets.push_back(set);
  uint64_t total = 0;
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    for (const uint32_t dim : {shape.key_dim, shape.value_dim}) {
      total += make_row_view<std::byte>(nullptr, shape.dtype, shape.tokens, shape.kv_heads, dim).packed_row_bytes() *
               shape.tokens;
    }
  }
  Bytes storage(total);
  std::byte* at = storage.data();
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      const uint32_t dim = side == Side::kKey ? shape.key_dim : shape.value_dim;
      const MutableKvView view = make_row_view<std::byte>(at, shape.dtype, shape.tokens, shape.kv_heads, dim);
      const uint32_t channels = view.channels();
      std::vector<float> mean(channels), scale(channels), mix(size_t{channels} * 4);
      for (float& m : mean) m = static_cast<float>(shape.mean_scale) * normal(random);
      for (float& s : scale) s = std::exp(0.5f * normal(random));
      for (float& m : mix) m = normal(random);
      std::vector<float> rows(size_t{shape.tokens} * channels);
      for (uint32_t t = 0; t < shape.tokens; ++t) {
        float hidden[4];
        for (float& h : hidden) h = normal(random);
        for (uint32_t c = 0; c < channels; ++c) {
          float value = 0.5f * normal(random);
          for (int k = 0; k < 4; ++k) value += hidden[k] * mix[size_t{c} * 4 + static_cast<size_t>(k)];
          rows[size_t{t} * channels + c] = mean[c] + scale[c] * value * (shape.sink && t == 0 ? 100.0f : 1.0f);
        }
      }
      const bool rotated = side == Side::kKey && dim >= 2;
      if (rotated) RopeRotation(facts.ropes[0], set.positions).redo(rows, shape.kv_heads, dim);
      store_values(view, 0, shape.tokens, rows.data());
      file.tensor.planes.push_back({layer, side, 0, rotated ? 0 : -1, view});
      at += view.packed_row_bytes() * shape.tokens;
    }
  }
  file.tensor.storage = std::make_shared<const FileBytes>(std::move(storage));
  return file;
}

inline double relative_error(const KvTensor& a, const KvTensor& b) {
  double error = 0;
  double squares = 0;
  for (size_t p = 0; p < a.planes.size(); ++p) {
    const KvView& va = a.planes[p].view;
    const KvView& vb = b.planes[p].view;
    std::vector<float> xa(size_t{va.tokens} * va.channels()), xb(xa.size());
    load_values(va, 0, va.tokens, xa.data());
    load_values(vb, 0, vb.tokens, xb.data());
    for (size_t i = 0; i < xa.size(); ++i) {
      error += (double{xa[i]} - double{xb[i]}) * (double{xa[i]} - double{xb[i]});
      squares += double{xa[i]} * double{xa[i]};
    }
  }
  return std::sqrt(error / squares);
}

}  // namespace kvpack::test
