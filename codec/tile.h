// SPDX-License-Identifier: Apache-2.0
// One tile: chunk x plane, all levels. encode_tile and decode_tile name the same stages, mirrored.
//
//   level 0, u8 mode:
//     0 raw         the stored rows
//     1 lossless    byte planes (lossless.h)
//     2 quantized   exact values, exact tokens (outliers.h), token classes, low-rank factors, level body (level_code.h)
//   level n > 0: a level body if level 0 is quantized, else nothing
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/plane_parameters.h"
#include "formats/archive.h"
#include "formats/kv_tensor.h"
#include "formats/model_facts.h"

namespace kvpack {

// What encoder and decoder know of a tile besides its bytes.
struct TileContext {
  const PlaneShape& shape;
  const PlaneParameters& parameters;
  const Rope* rope = nullptr;           // null: rows are taken as they are
  std::span<const int32_t> positions;   // [token of the chunk]
  std::span<const int8_t> key_classes;  // [kv_head][token] of the key tile of the same layer and chunk, if it has any
};

struct TileInput {
  const KvView& view;
  std::span<const ForwardTransform> forward;  // [kv_head], unless the parameters are lossless
  uint32_t first = 0;                         // the chunk's first token in the view
  std::span<const uint32_t> sinks;            // tokens of the chunk to keep exactly, ascending
  std::span<const int8_t> token_classes;      // [kv_head][token], or empty; ignored where the context has key_classes
  // How much of a token's rounding error the token 32 slots on makes good; 0: rounding to the nearest.
  float error_feedback = 0;
};

// Attention adds up the values of many tokens, so errors that cancel between tokens cost less than errors that do not:
// error diffusion, as in printing, but across tokens. Of keys it gains nothing: each is compared alone.
inline constexpr float kValueErrorFeedback = 0.35f;

struct LevelDistortion {
  double squared_error = 0;  // sum over the tile's values of (decoded - original)^2, exact values left out
  double max_error = 0;      // of those that were looked at
};

struct EncodedTile {
  std::vector<Bytes> levels;
  std::vector<LevelDistortion> distortion;  // [level], only if measured
  double squared_values = 0;
  uint64_t exact_values = 0;
  bool quantized = false;
  uint64_t required_features = 0;  // archive.h; what a reader of it must know
};

// How much of a tile is decoded again to see its distortion. kSample: a fourth of its tokens where it has many, in f32,
// for an estimate of the squared error; kAll: the very rows that decode_tile makes.
enum class Measuring : uint8_t { kNone, kSample, kAll };

// Never larger than the raw rows plus one byte.
Result<EncodedTile> encode_tile(const TileContext& context, const TileInput& input, Measuring measuring);

// The token classes that a key tile carries, for its value tile; empty if it has none. Reads level 0 only.
Result<std::vector<int8_t>> read_tile_token_classes(const TileContext& context, ByteSpan level0);

// Decodes up to levels.size() levels into `rows` (any type; positions.size() tokens). Errors: corrupt, truncated.
Status decode_tile(const TileContext& context, std::span<const ByteSpan> levels, const MutableKvView& rows);

// The same for up to kTilesTogether tiles, whose entropy coders run in lockstep; faster than one after the other. [job]
struct TileJob {
  const TileContext& context;
  std::span<const ByteSpan> levels;
  MutableKvView rows;
  const TileJob* key = nullptr;  // a job before this one, the key tile that it may take its token classes from
};
inline constexpr size_t kTilesTogether = 4;
std::array<Status, kTilesTogether> decode_tiles(std::span<const TileJob> jobs);

enum class TileMode : uint8_t { kRaw = 0, kLossless = 1, kQuantized = 2 };

}  // namespace kvpack
