// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "codec/level_code.h"
#include "codec/lossless.h"
#include "codec/low_rank.h"
#include "codec/outliers.h"
#include "codec/quantizer.h"
#include "codec/rope.h"
#include "codec/tile.h"

namespace kvpack {
namespace {

// Stored rows in the source's type, into rows of any type.
void convert_rows(const TileContext& context, ByteSpan stored, const MutableKvView& rows) {
  const PlaneShape& shape = context.shape;
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  auto source = make_row_view<const std::byte>(stored.data(), shape.dtype, tokens, shape.kv_heads, shape.head_dim);
  source.hadamard_block = shape.hadamard_block;
  if (rows.dtype == shape.dtype && rows.hadamard_block == shape.hadamard_block) {
    store_raw(rows, 0, tokens, stored.data());
    return;
  }
  std::vector<float> values(shape.channels());
  for (uint32_t token = 0; token < tokens; ++token) {
    load_values(source, token, 1, values.data());
    store_values(rows, token, 1, values.data());
  }
}

// Quantized components to values, one head at a time.
void inverse_transform(const TileContext& context, uint32_t level, const QuantizedTile& tile, std::span<float> rows) {
  const PlaneShape& shape = context.shape;
  std::vector<float> components;
  uint32_t first_component = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const InverseTransform transform(context.parameters.transform, shape.head_dim, context.parameters.matrix(head));
    const float step = context.parameters.step[head] * kThirds[level];
    components.assign(transform.components(), 0.0f);
    for (uint32_t slot = 0; slot < tile.tokens; ++slot) {
      const float token_step = step_of_class(step, tile.order[head].token_class[slot]);
      for (uint32_t k = 0; k < transform.components(); ++k) {
        components[k] = dequantize(tile.values(first_component + k)[slot], token_step);
      }
      transform.apply(components.data(),
                      &rows[size_t{tile.order[head].token[slot]} * shape.channels() + size_t{head} * shape.head_dim]);
    }
    first_component += transform.components();
  }
}

void add_mean(const TileContext& context, std::span<float> rows) {
  const uint32_t channels = context.shape.channels();
  const std::vector<float>& mean = context.parameters.mean_values;
  for (size_t i = 0; i < rows.size(); ++i) rows[i] += mean[i % channels];
}

// What stands before the low-rank part and the levels' bodies.
struct TileHead {
  ExactValues exact_values;
  ExactTokens exact_tokens;
  TileTokenClasses classes;
};

Result<TileHead> read_tile_head(const TileContext& context, ByteReader& in) {
  const PlaneShape& shape = context.shape;
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  const uint64_t row_bytes =
      make_row_view<const std::byte>(nullptr, shape.dtype, 1, shape.kv_heads, shape.head_dim).packed_row_bytes();
  TileHead head;
  KVPACK_ASSIGN_OR_RETURN(head.exact_values,
                          read_exact_values(in, shape.dtype, uint64_t{tokens} * shape.channels()));
  KVPACK_ASSIGN_OR_RETURN(head.exact_tokens, read_exact_tokens(in, tokens, row_bytes));
  KVPACK_ASSIGN_OR_RETURN(head.classes, read_token_classes(in, shape.kv_heads, tokens));
  return head;
}

Status decode_quantized(const TileContext& context, ByteReader& in, std::span<const ByteSpan> levels,
                        const MutableKvView& rows) {
  const PlaneShape& shape = context.shape;
  const PlaneParameters& parameters = context.parameters;
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  if (parameters.lossless) return corrupt("a quantized tile in a lossless plane");
  KVPACK_ASSIGN_OR_RETURN(TileHead head, read_tile_head(context, in));
  if (head.classes.source == TokenClassSource::kKeyTile && context.key_classes.empty())
    return corrupt("the tile takes its token classes from a key tile that has none");
  const std::span<const int8_t> token_classes =
      head.classes.source == TokenClassSource::kKeyTile ? context.key_classes : std::span<const int8_t>(head.classes.classes);
  LowRankFactors low_rank;
  if (parameters.low_rank > 0) {
    KVPACK_ASSIGN_OR_RETURN(low_rank, read_low_rank(in, tokens, shape.channels(), parameters.low_rank));
  }
  QuantizedTile tile = make_quantized_tile(parameters, shape, tokens, token_classes);
  KVPACK_RETURN_IF_ERROR(decode_level(in, 0, parameters, tile));
  const uint32_t top = static_cast<uint32_t>(std::min<size_t>(levels.size(), parameters.levels)) - 1;
  for (uint32_t level = 1; level <= top; ++level) {
    ByteReader body(levels[level]);
    KVPACK_RETURN_IF_ERROR(decode_level(body, level, parameters, tile));
  }
  std::vector<float> values(size_t{tokens} * shape.channels());
  inverse_transform(context, top, tile, values);
  add_low_rank(low_rank, +1.0f, values, shape.channels());
  add_mean(context, values);
  if (context.rope != nullptr)
    RopeRotation(*context.rope, context.positions).redo(values, shape.kv_heads, shape.head_dim);
  store_values(rows, 0, tokens, values.data());
  restore_exact_tokens(head.exact_tokens, shape.dtype, shape.hadamard_block, rows);
  restore_exact_values(head.exact_values, shape.dtype, rows);
  return {};
}

}  // namespace

Result<std::vector<int8_t>> read_tile_token_classes(const TileContext& context, ByteSpan level0) {
  ByteReader in(level0);
  KVPACK_ASSIGN_OR_RETURN(uint8_t mode, in.read<uint8_t>("tile mode"));
  if (mode != static_cast<uint8_t>(TileMode::kQuantized)) return std::vector<int8_t>{};
  KVPACK_ASSIGN_OR_RETURN(TileHead head, read_tile_head(context, in));
  return std::move(head.classes.classes);
}

Status decode_tile(const TileContext& context, std::span<const ByteSpan> levels, const MutableKvView& rows) {
  const PlaneShape& shape = context.shape;
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  assert(rows.tokens >= tokens && rows.kv_heads == shape.kv_heads && rows.head_dim == shape.head_dim &&
         !levels.empty());
  const uint64_t stored_bytes =
      tokens *
      make_row_view<const std::byte>(nullptr, shape.dtype, 1, shape.kv_heads, shape.head_dim).packed_row_bytes();
  ByteReader in(levels[0]);
  KVPACK_ASSIGN_OR_RETURN(uint8_t mode, in.read<uint8_t>("tile mode"));
  if (mode == static_cast<uint8_t>(TileMode::kQuantized)) return decode_quantized(context, in, levels, rows);
  for (size_t level = 1; level < levels.size(); ++level) {
    if (!levels[level].empty())
      return corrupt(fmt::format("level {} of an exact tile has {} bytes", level, levels[level].size()));
  }
  if (mode == static_cast<uint8_t>(TileMode::kRaw)) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan stored, in.take(stored_bytes, "raw rows"));
    if (!in.at_end()) return corrupt(fmt::format("{} bytes after raw rows", in.remaining()));
    convert_rows(context, stored, rows);
    return {};
  }
  if (mode != static_cast<uint8_t>(TileMode::kLossless)) return corrupt(fmt::format("tile mode {}", mode));
  Bytes stored(stored_bytes);
  KVPACK_RETURN_IF_ERROR(decode_lossless(in, shape.dtype, stored));
  convert_rows(context, stored, rows);
  return {};
}

}  // namespace kvpack
