// SPDX-License-Identifier: Apache-2.0
#include "codec/tile_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "codec/kernels.h"
#include "codec/quantizer.h"

namespace kvpack {

void TileRows::open(const TileContext& context, uint32_t level, std::span<const LaneOrder> order,
                    const LowRankFactors& low_rank, const MutableKvView& rows) {
  const PlaneShape& shape = context.shape;
  const PlaneParameters& parameters = context.parameters;
  context_ = &context;
  low_rank_ = &low_rank;
  rotation_ = context.rope != nullptr ? &cached_rotation(*context.rope, context.positions) : nullptr;
  order_ = order;
  out_ = rows;
  level_ = level;
  direct_ = low_rank.rank == 0 && !dtype_is_quantized(rows.dtype) && rows.hadamard_block == 0;
  plain_ = direct_ && parameters.transform == TransformKind::kNone && rotation_ == nullptr &&
           rows.dtype != DType::kF32 && rows.channel_stride == sizeof(uint16_t);
  heads_.resize(shape.kv_heads);
  rows_.resize(size_t{shape.head_dim} * kLanes);
  units_.resize(has_matrix(parameters.transform) ? 0 : rows_.size());
  halves_.resize(rows_.size());
  if (!direct_) all_rows_.resize(context.positions.size() * shape.channels());
  mean_.assign(parameters.mean_values.begin(), parameters.mean_values.end());
  uint32_t first_component = 0;
  uint32_t most_components = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    Head& of = heads_[head];
    of.first_component = first_component;
    of.components = parameters.components(head, shape.head_dim);
    of.step = parameters.step[head] * kThirds[level_];
    if (has_matrix(parameters.transform)) of.step *= parameters.weights[head].unit;
    if (parameters.transform == TransformKind::kHadamard) {
      of.step *= 1.0f / std::sqrt(static_cast<float>(hadamard_block_of(shape.head_dim)));
    }
    first_component += of.components;
    most_components = std::max(most_components, of.components);
  }
  const size_t pairs = (most_components + 1) / 2;
  pairs_.resize(pairs * kLanes * 2);
  used_.resize(pair_words(pairs) * kQuads);
}

void TileRows::put_group(const TileSymbols& symbols, uint32_t group) {
  for (uint32_t head = 0; head < heads_.size(); ++head) {
    if (plain_ && store_plain(symbols, head, group)) continue;
    put_head(symbols.values(heads_[head].first_component), head, group);
  }
}

void TileRows::put_group(const QuantizedTile& tile, uint32_t group) {
  const uint32_t first = group * kLanes;
  const uint32_t lanes = std::min<uint32_t>(kLanes, tile.tokens - first);
  for (uint32_t head = 0; head < heads_.size(); ++head) {
    const Head& of = heads_[head];
    narrow_.assign(size_t{of.components} * kLanes, 0);
    int32_t least = 0;
    int32_t most = 0;
    for (uint32_t k = 0; k < of.components; ++k) {
      const int32_t* values = &tile.values(of.first_component + k)[first];
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        narrow_[size_t{k} * kLanes + lane] = static_cast<int16_t>(values[lane]);
        least = std::min(least, values[lane]);
        most = std::max(most, values[lane]);
      }
    }
    if (most <= INT16_MAX && least >= -INT16_MAX) {
      put_head(narrow_.data(), head, group);
      continue;
    }
    wide_.assign(narrow_.size(), 0);
    for (uint32_t k = 0; k < of.components; ++k) {
      std::copy_n(&tile.values(of.first_component + k)[first], lanes, &wide_[size_t{k} * kLanes]);
    }
    put_wide_head(wide_, head, group);
  }
}

void TileRows::put_head(const int16_t* q, uint32_t head, uint32_t group) {
  const Head& of = heads_[head];
  if (!has_matrix(context_->parameters.transform)) {
    kernels().units(q, of.components, units_.data());
    finish_units(head, group);
    return;
  }
  if (!kernels().pair_units(q, of.components, pairs_.data(), used_.data())) {
    wide_.assign(q, q + size_t{of.components} * kLanes);
    put_wide_head(wide_, head, group);
    return;
  }
  float scale[kLanes];
  scales_of(head, group, scale);
  const uint32_t dim = context_->shape.head_dim;
  kernels().inverse_matrix(pairs_.data(), used_.data(), (of.components + 1) / 2,
                           context_->parameters.weights[head].pairs.data(), dim, scale, &mean_[size_t{head} * dim],
                           rows_.data());
  finish_rows(head, group);
}

// Values whose sums may need more than 32 bits.
void TileRows::put_wide_head(std::span<const int32_t> q, uint32_t head, uint32_t group) {
  const Head& of = heads_[head];
  if (!has_matrix(context_->parameters.transform)) {
    std::copy(q.begin(), q.end(), units_.begin());
    finish_units(head, group);
    return;
  }
  const uint32_t dim = context_->shape.head_dim;
  const int16_t* weights = context_->parameters.weights[head].pairs.data();
  float scale[kLanes];
  scales_of(head, group, scale);
  for (size_t slot = 0; slot < kLanes; ++slot) {
    for (size_t d = 0; d < dim; ++d) {
      int64_t sum = 0;
      for (size_t k = 0; k < of.components; ++k) {
        sum += int64_t{q[k * kLanes + slot]} * weights[(k / 2 * dim + d) * 2 + k % 2];
      }
      rows_[slot * dim + d] = std::fma(static_cast<float>(sum), scale[slot], mean_[size_t{head} * dim + d]);
    }
  }
  finish_rows(head, group);
}

void TileRows::finish_units(uint32_t head, uint32_t group) {
  const uint32_t dim = context_->shape.head_dim;
  if (context_->parameters.transform == TransformKind::kHadamard) {
    kernels().hadamard(units_.data(), dim, hadamard_block_of(dim));
  }
  float scale[kLanes];
  scales_of(head, group, scale);
  kernels().inverse_none(units_.data(), dim, scale, &mean_[size_t{head} * dim], rows_.data());
  finish_rows(head, group);
}

// The slots of `group` that exist, and the scales of all 32, zero beyond them.
uint32_t TileRows::scales_of(uint32_t head, uint32_t group, float* scale) const {
  const uint32_t first = group * kLanes;
  const uint32_t lanes = std::min<uint32_t>(kLanes, static_cast<uint32_t>(context_->positions.size()) - first);
  const int8_t* classes = &order_[head].token_class[first];
  if (lanes == kLanes && std::all_of(classes, classes + kLanes, [&](int8_t c) { return c == classes[0]; })) {
    std::fill_n(scale, kLanes, step_of_class(heads_[head].step, classes[0]));
    return lanes;
  }
  std::fill_n(scale, kLanes, 0.0f);
  for (uint32_t lane = 0; lane < lanes; ++lane) scale[lane] = step_of_class(heads_[head].step, classes[lane]);
  return lanes;
}

// Symbols to stored halves in one step. False, and nothing is done, if the rows do not lie at whole u16.
bool TileRows::store_plain(const TileSymbols& symbols, uint32_t head, uint32_t group) {
  const uint32_t dim = context_->shape.head_dim;
  float scale[kLanes];
  const uint32_t lanes = scales_of(head, group, scale);
  const uint32_t* tokens = &order_[head].token[size_t{group} * kLanes];
  std::array<uint16_t*, kLanes> rows;
  rows.fill(halves_.data());  // for lanes that do not exist
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    std::byte* row = out_.data + head * out_.head_stride + out_.row_of(tokens[lane]) * out_.token_stride;
    if (reinterpret_cast<uintptr_t>(row) % alignof(uint16_t) != 0) return false;
    rows[lane] = reinterpret_cast<uint16_t*>(row);
  }
  const auto convert = out_.dtype == DType::kF16 ? kernels().none_to_f16 : kernels().none_to_bf16;
  convert(symbols.values(heads_[head].first_component), dim, scale, &mean_[size_t{head} * dim], rows.data());
  return true;
}

void TileRows::finish_rows(uint32_t head, uint32_t group) {
  const uint32_t dim = context_->shape.head_dim;
  const uint32_t first = group * kLanes;
  const uint32_t lanes = std::min<uint32_t>(kLanes, static_cast<uint32_t>(context_->positions.size()) - first);
  const std::span<const uint32_t> tokens(&order_[head].token[first], lanes);
  if (direct_) {
    if (rotation_ != nullptr) rotation_->redo_some(rows_.data(), lanes, dim, tokens.data());
    store_rows(head, tokens);
    return;
  }
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    std::copy_n(&rows_[size_t{lane} * dim], dim,
                &all_rows_[size_t{tokens[lane]} * context_->shape.channels() + size_t{head} * dim]);
  }
}

// rows_ to out_, rounded.
void TileRows::store_rows(uint32_t head, std::span<const uint32_t> tokens) {
  const uint32_t dim = context_->shape.head_dim;
  const auto convert = out_.dtype == DType::kF16 ? kernels().to_f16 : kernels().to_bf16;
  const size_t element_bytes = dtype_block_bytes(out_.dtype);
  const bool wide = out_.dtype == DType::kF32;
  const bool contiguous = out_.channel_stride == element_bytes;
  std::byte* first = out_.data + head * out_.head_stride;
  if (contiguous) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::byte* row = first + out_.row_of(tokens[i]) * out_.token_stride;
      if (wide) {
        std::memcpy(row, &rows_[i * dim], dim * sizeof(float));
      } else {
        // A file's values may begin at an odd byte.
        const bool aligned = reinterpret_cast<uintptr_t>(row) % alignof(uint16_t) == 0;
        uint16_t* to = aligned ? reinterpret_cast<uint16_t*>(row) : halves_.data();
        convert(&rows_[i * dim], dim, to);
        if (!aligned) std::memcpy(row, to, dim * sizeof(uint16_t));
      }
    }
    return;
  }
  if (!wide) convert(rows_.data(), tokens.size() * dim, halves_.data());
  const auto* source =
      wide ? reinterpret_cast<const std::byte*>(rows_.data()) : reinterpret_cast<const std::byte*>(halves_.data());
  // Channel by channel: where a channel's tokens lie side by side (llama.cpp's transposed V), lines are filled whole.
  std::array<uint64_t, kLanes> at;
  for (size_t i = 0; i < tokens.size(); ++i) at[i] = out_.row_of(tokens[i]) * out_.token_stride;
  for (uint32_t d = 0; d < dim; ++d, first += out_.channel_stride) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (wide) {
        std::memcpy(first + at[i], source + (i * dim + d) * 4, 4);
      } else {
        std::memcpy(first + at[i], source + (i * dim + d) * 2, 2);
      }
    }
  }
}

void TileRows::finish() {
  if (direct_) return;
  const PlaneShape& shape = context_->shape;
  add_low_rank(*low_rank_, +1.0f, all_rows_, shape.channels());
  if (rotation_ != nullptr) rotation_->redo(all_rows_, shape.kv_heads, shape.head_dim);
  store_values(out_, 0, static_cast<uint32_t>(context_->positions.size()), all_rows_.data());
}

}  // namespace kvpack
