// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <cassert>

#include "codec/entropy_tables.h"
#include "codec/level_code.h"
#include "codec/lossless.h"
#include "codec/low_rank.h"
#include "codec/outliers.h"
#include "codec/tile.h"
#include "codec/tile_rows.h"
#include "codec/tile_symbols.h"

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
  KVPACK_ASSIGN_OR_RETURN(head.exact_values, read_exact_values(in, shape.dtype, uint64_t{tokens} * shape.channels()));
  KVPACK_ASSIGN_OR_RETURN(head.exact_tokens, read_exact_tokens(in, tokens, row_bytes));
  KVPACK_ASSIGN_OR_RETURN(head.classes, read_token_classes(in, shape.kv_heads, tokens));
  return head;
}

// What a thread needs to decode two tiles at once, kept from tile to tile.
struct TileDecoder {
  TileHead head;
  LowRankFactors low_rank;
  std::vector<LaneOrder> order;
  std::vector<ByteSpan> bodies;
  TileSymbols symbols;
  TileRows rows;

  // Reads everything that stands before the coded levels.
  Status open(const TileJob& job, std::span<const int8_t> key_classes, ByteReader& in);
  // After the last group, or in place of the rest if the values are too wide for it.
  Status finish(const TileJob& job);
  Status decode_wide(const TileJob& job);
};

Status TileDecoder::open(const TileJob& job, std::span<const int8_t> key_classes, ByteReader& in) {
  const PlaneShape& shape = job.context.shape;
  const PlaneParameters& parameters = job.context.parameters;
  const uint32_t tokens = static_cast<uint32_t>(job.context.positions.size());
  if (parameters.lossless) return corrupt("a quantized tile in a lossless plane");
  KVPACK_ASSIGN_OR_RETURN(head, read_tile_head(job.context, in));
  const bool follows = head.classes.source == TokenClassSource::kKeyTile;
  if (follows && key_classes.empty()) return corrupt("the tile takes its token classes from a key tile that has none");
  const std::span<const int8_t> token_classes =
      follows ? key_classes : std::span<const int8_t>(head.classes.classes);
  low_rank = {};
  if (parameters.low_rank > 0) {
    KVPACK_ASSIGN_OR_RETURN(low_rank, read_low_rank(in, tokens, shape.channels(), parameters.low_rank));
  }
  order.clear();
  for (uint32_t h = 0; h < shape.kv_heads; ++h) {
    order.push_back(lane_order(
        token_classes.empty() ? token_classes : token_classes.subspan(size_t{h} * tokens, tokens), tokens));
  }
  const size_t levels = std::min<size_t>(job.levels.size(), parameters.levels);
  bodies.assign(job.levels.begin(), job.levels.begin() + static_cast<std::ptrdiff_t>(levels));
  bodies[0] = job.levels[0].subspan(in.offset());
  KVPACK_RETURN_IF_ERROR(symbols.open(bodies, parameters, shape, order, tokens));
  rows.open(job.context, static_cast<uint32_t>(levels) - 1, symbols.classes(), order, low_rank, job.rows);
  return {};
}

Status TileDecoder::decode_wide(const TileJob& job) {
  QuantizedTile tile;
  tile.tokens = static_cast<uint32_t>(job.context.positions.size());
  tile.order = order;
  for (uint32_t h = 0; h < job.context.shape.kv_heads; ++h) {
    for (uint32_t k = 0; k < job.context.parameters.components(h, job.context.shape.head_dim); ++k) {
      tile.head.push_back(h);
      tile.index.push_back(k);
    }
  }
  tile.q.assign(size_t{tile.components()} * tile.tokens, 0);
  tile.class_of.assign(tile.components(), kDeadClass);
  for (uint32_t level = 0; level < bodies.size(); ++level) {
    ByteReader in(bodies[level]);
    KVPACK_RETURN_IF_ERROR(decode_level(in, level, job.context.parameters, tile));
  }
  for (uint32_t group = 0; group < symbols.groups(); ++group) rows.put_group(tile, group);
  return {};
}

Status TileDecoder::finish(const TileJob& job) {
  if (symbols.wide()) {
    KVPACK_RETURN_IF_ERROR(decode_wide(job));
  } else {
    KVPACK_RETURN_IF_ERROR(symbols.finish());
  }
  rows.finish();
  const PlaneShape& shape = job.context.shape;
  restore_exact_tokens(head.exact_tokens, shape.dtype, shape.hadamard_block, job.rows);
  restore_exact_values(head.exact_values, shape.dtype, job.rows);
  return {};
}

// Raw and lossless tiles.
Status decode_exact(const TileJob& job, ByteReader& in, uint8_t mode) {
  const PlaneShape& shape = job.context.shape;
  const uint64_t stored_bytes =
      job.context.positions.size() *
      make_row_view<const std::byte>(nullptr, shape.dtype, 1, shape.kv_heads, shape.head_dim).packed_row_bytes();
  for (size_t level = 1; level < job.levels.size(); ++level) {
    if (!job.levels[level].empty())
      return corrupt(fmt::format("level {} of an exact tile has {} bytes", level, job.levels[level].size()));
  }
  if (mode == static_cast<uint8_t>(TileMode::kRaw)) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan stored, in.take(stored_bytes, "raw rows"));
    if (!in.at_end()) return corrupt(fmt::format("{} bytes after raw rows", in.remaining()));
    convert_rows(job.context, stored, job.rows);
    return {};
  }
  if (mode != static_cast<uint8_t>(TileMode::kLossless)) return corrupt(fmt::format("tile mode {}", mode));
  Bytes stored(stored_bytes);
  KVPACK_RETURN_IF_ERROR(decode_lossless(in, shape.dtype, shape.channels(), stored));
  convert_rows(job.context, stored, job.rows);
  return {};
}

// Exact tiles are decoded here and now; a quantized one is opened in `decoder`.
Status open_tile(const TileJob& job, std::span<const int8_t> key_classes, TileDecoder& decoder, bool& quantized) {
  assert(job.rows.tokens >= job.context.positions.size() && job.rows.kv_heads == job.context.shape.kv_heads &&
         job.rows.head_dim == job.context.shape.head_dim && !job.levels.empty());
  quantized = false;
  ByteReader in(job.levels[0]);
  KVPACK_ASSIGN_OR_RETURN(uint8_t mode, in.read<uint8_t>("tile mode"));
  if (mode != static_cast<uint8_t>(TileMode::kQuantized)) return decode_exact(job, in, mode);
  KVPACK_RETURN_IF_ERROR(decoder.open(job, key_classes, in));
  quantized = true;
  return {};
}

Status decode_groups(const TileJob& job, TileDecoder& decoder, uint32_t first) {
  for (uint32_t group = first; group < decoder.symbols.groups() && !decoder.symbols.wide(); ++group) {
    KVPACK_RETURN_IF_ERROR(decoder.symbols.decode_group(group));
    if (!decoder.symbols.wide()) decoder.rows.put_group(decoder.symbols, group);
  }
  return decoder.finish(job);
}

TileDecoder& thread_decoder(int which) {
  thread_local std::array<TileDecoder, 2> decoders;
  return decoders[static_cast<size_t>(which)];
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
  const TileJob job{context, levels, rows};
  TileDecoder& decoder = thread_decoder(0);
  bool quantized = false;
  KVPACK_RETURN_IF_ERROR(open_tile(job, context.key_classes, decoder, quantized));
  return quantized ? decode_groups(job, decoder, 0) : Status();
}

std::array<Status, 2> decode_two_tiles(const TileJob& a, const TileJob& b, bool b_follows_a) {
  std::array<Status, 2> status;
  TileDecoder& first = thread_decoder(0);
  TileDecoder& second = thread_decoder(1);
  bool first_quantized = false;
  bool second_quantized = false;
  status[0] = open_tile(a, a.context.key_classes, first, first_quantized);
  const bool key_has_classes = b_follows_a && first_quantized;
  status[1] = open_tile(b, key_has_classes ? std::span<const int8_t>(first.head.classes.classes) : b.context.key_classes,
                        second, second_quantized);
  uint32_t group = 0;
  if (first_quantized && second_quantized) {
    const uint32_t both = std::min(first.symbols.groups(), second.symbols.groups());
    for (; group < both && !first.symbols.wide() && !second.symbols.wide(); ++group) {
      status = TileSymbols::decode_group_of_two(first.symbols, second.symbols, group);
      if (!status[0].ok() || !status[1].ok()) return status;
      if (!first.symbols.wide()) first.rows.put_group(first.symbols, group);
      if (!second.symbols.wide()) second.rows.put_group(second.symbols, group);
    }
  }
  if (first_quantized) status[0] = decode_groups(a, first, group);
  if (second_quantized) status[1] = decode_groups(b, second, group);
  return status;
}

}  // namespace kvpack
