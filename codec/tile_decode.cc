// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <cassert>

#include "codec/entropy_tables.h"
#include "codec/level_code.h"
#include "codec/lossless.h"
#include "codec/low_rank.h"
#include "codec/outliers.h"
#include "codec/row_values.h"
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
  LosslessReader lossless;
  Bytes stored;  // a lossless tile's rows, where they cannot be put in their place at once

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
  const std::span<const int8_t> token_classes = follows ? key_classes : std::span<const int8_t>(head.classes.classes);
  low_rank = {};
  if (parameters.low_rank > 0) {
    KVPACK_ASSIGN_OR_RETURN(low_rank, read_low_rank(in, tokens, shape.channels(), parameters.low_rank));
  }
  order.clear();
  for (uint32_t h = 0; h < shape.kv_heads; ++h) {
    order.push_back(
        lane_order(token_classes.empty() ? token_classes : token_classes.subspan(size_t{h} * tokens, tokens), tokens));
  }
  const size_t levels = std::min<size_t>(job.levels.size(), parameters.levels);
  bodies.assign(job.levels.begin(), job.levels.begin() + static_cast<std::ptrdiff_t>(levels));
  bodies[0] = job.levels[0].subspan(in.offset());
  KVPACK_RETURN_IF_ERROR(symbols.open(bodies, parameters, shape, order, tokens));
  rows.open(job.context, static_cast<uint32_t>(levels) - 1, order, low_rank, job.rows);
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

// Whether a tile's rows, as stored, are what should be put there.
bool takes_stored_rows(const PlaneShape& shape, const MutableKvView& rows) {
  return rows.dtype == shape.dtype && rows.hadamard_block == shape.hadamard_block && is_one_block(rows);
}

enum class TileState : uint8_t { kDone, kQuantized, kLossless };

// Raw tiles are done with here and now; a lossless one is opened in `decoder`.
Result<TileState> open_exact(const TileJob& job, ByteReader& in, uint8_t mode, TileDecoder& decoder) {
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
    return TileState::kDone;
  }
  if (mode != static_cast<uint8_t>(TileMode::kLossless)) return corrupt(fmt::format("tile mode {}", mode));
  MutableByteSpan into(job.rows.data, stored_bytes);
  if (!takes_stored_rows(shape, job.rows)) {
    decoder.stored.resize(stored_bytes);
    into = decoder.stored;
  }
  KVPACK_RETURN_IF_ERROR(decoder.lossless.open(in, shape.dtype, shape.channels(), into));
  return TileState::kLossless;
}

Status finish_exact(const TileJob& job, TileDecoder& decoder) {
  KVPACK_RETURN_IF_ERROR(decoder.lossless.finish());
  if (!takes_stored_rows(job.context.shape, job.rows)) convert_rows(job.context, decoder.stored, job.rows);
  return {};
}

Result<TileState> open_tile(const TileJob& job, std::span<const int8_t> key_classes, TileDecoder& decoder) {
  assert(job.rows.tokens >= job.context.positions.size() && job.rows.kv_heads == job.context.shape.kv_heads &&
         job.rows.head_dim == job.context.shape.head_dim && !job.levels.empty());
  ByteReader in(job.levels[0]);
  KVPACK_ASSIGN_OR_RETURN(uint8_t mode, in.read<uint8_t>("tile mode"));
  if (mode != static_cast<uint8_t>(TileMode::kQuantized)) return open_exact(job, in, mode, decoder);
  KVPACK_RETURN_IF_ERROR(decoder.open(job, key_classes, in));
  return TileState::kQuantized;
}

TileDecoder& thread_decoder(size_t which) {
  thread_local std::array<TileDecoder, kTilesTogether> decoders;
  return decoders[which];
}

void read_lossless(std::span<const TileState> state, std::span<Status> status) {
  std::array<LosslessReader*, kTilesTogether> readers;
  std::array<Status, kTilesTogether> read;
  std::array<size_t, kTilesTogether> job_of;
  size_t count = 0;
  for (size_t j = 0; j < state.size(); ++j) {
    if (state[j] != TileState::kLossless) continue;
    readers[count] = &thread_decoder(j).lossless;
    job_of[count++] = j;
  }
  LosslessReader::read_groups(std::span(readers).first(count), std::span(read).first(count));
  for (size_t i = 0; i < count; ++i) status[job_of[i]] = std::move(read[i]);
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
  return std::move(decode_tiles({&job, 1})[0]);
}

std::array<Status, kTilesTogether> decode_tiles(std::span<const TileJob> jobs) {
  assert(jobs.size() <= kTilesTogether);
  std::array<Status, kTilesTogether> status;
  std::array<TileState, kTilesTogether> state{};
  for (size_t j = 0; j < jobs.size(); ++j) {
    std::span<const int8_t> key_classes = jobs[j].context.key_classes;
    if (jobs[j].key != nullptr) {
      const size_t key = static_cast<size_t>(jobs[j].key - jobs.data());
      assert(key < j);
      if (state[key] == TileState::kQuantized) key_classes = thread_decoder(key).head.classes.classes;
    }
    auto opened = open_tile(jobs[j], key_classes, thread_decoder(j));
    if (!opened.ok()) {
      status[j] = opened.error();
    } else {
      state[j] = *opened;
    }
  }
  read_lossless(state, status);
  for (uint32_t group = 0;; ++group) {
    std::array<TileSymbols*, kTilesTogether> symbols;
    std::array<size_t, kTilesTogether> job_of;
    size_t count = 0;
    for (size_t j = 0; j < jobs.size(); ++j) {
      TileSymbols& of = thread_decoder(j).symbols;
      if (state[j] != TileState::kQuantized || !status[j].ok() || of.wide() || group >= of.groups()) continue;
      symbols[count] = &of;
      job_of[count++] = j;
    }
    if (count == 0) break;
    auto decoded = TileSymbols::decode_group_of(std::span(symbols).first(count), group);
    for (size_t i = 0; i < count; ++i) {
      status[job_of[i]] = std::move(decoded[i]);
      if (status[job_of[i]].ok() && !symbols[i]->wide()) thread_decoder(job_of[i]).rows.put_group(*symbols[i], group);
    }
  }
  for (size_t j = 0; j < jobs.size(); ++j) {
    if (!status[j].ok() || state[j] == TileState::kDone) continue;
    TileDecoder& decoder = thread_decoder(j);
    status[j] = state[j] == TileState::kQuantized ? decoder.finish(jobs[j]) : finish_exact(jobs[j], decoder);
  }
  return status;
}

}  // namespace kvpack
