// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "codec/kernels.h"
#include "codec/level_code.h"
#include "codec/lossless.h"
#include "codec/low_rank.h"
#include "codec/outliers.h"
#include "codec/quantizer.h"
#include "codec/rope.h"
#include "codec/row_values.h"
#include "codec/tile.h"
#include "codec/tile_rows.h"

namespace kvpack {
namespace {

// The rows as they are stored: where they lie if that is one block, or copied into `room`.
ByteSpan stored_rows(const TileInput& input, uint32_t tokens, Bytes& room) {
  const KvView& view = input.view;
  const uint64_t row_bytes = view.packed_row_bytes();
  if (is_one_block(view)) return {view.data + input.first * row_bytes, tokens * row_bytes};
  room.resize(tokens * row_bytes);
  load_raw(view, input.first, tokens, room.data());
  return room;
}

// Byte planes, or the rows as they are if those are smaller.
Result<EncodedTile> encode_exact(const TileContext& context, const TileInput& input) {
  Bytes room;
  const ByteSpan stored = stored_rows(input, static_cast<uint32_t>(context.positions.size()), room);
  ByteWriter out;
  out.write(static_cast<uint8_t>(TileMode::kLossless));
  KVPACK_ASSIGN_OR_RETURN(const bool repeats,
                          encode_lossless(stored, context.shape.dtype, context.shape.channels(), out));
  EncodedTile tile;
  tile.levels.resize(context.parameters.lossless ? 1 : context.parameters.levels);
  if (out.size() <= stored.size()) {
    if (repeats) tile.required_features = kRepeatedRowsFeature;
  } else {
    out.cut(0);
    out.write(static_cast<uint8_t>(TileMode::kRaw));
    out.write_bytes(stored);
  }
  tile.levels[0] = out.take();
  return tile;
}

ExactTokens take_sinks(const TileInput& input) {
  ExactTokens exact;
  const uint64_t row_bytes = input.view.packed_row_bytes();
  exact.rows.resize(input.sinks.size() * row_bytes);
  for (size_t i = 0; i < input.sinks.size(); ++i) {
    exact.token.push_back(input.sinks[i]);
    load_raw(input.view, input.first + input.sinks[i], 1, exact.rows.data() + i * row_bytes);
  }
  return exact;
}

// Sinks become zero: they are stored aside and would only disturb the symbols' statistics.
void subtract_mean(const TileContext& context, std::span<const uint32_t> sinks, std::span<const float> from,
                   std::span<float> rows) {
  const uint32_t channels = context.shape.channels();
  const float* mean = context.parameters.mean_values.data();
  for (size_t first = 0; first < rows.size(); first += channels) {
    for (uint32_t c = 0; c < channels; ++c) rows[first + c] = from[first + c] - mean[c];
  }
  for (const uint32_t token : sinks) std::fill_n(rows.begin() + size_t{token} * channels, channels, 0.0f);
}

// Adds to each component [.][32] its part of the error that the group before left in its place.
void add_feedback(std::span<const float> left, float feedback, float* components) {
  for (size_t i = 0; i < left.size(); ++i) components[i] += feedback * left[i];
}

// The errors that rounding to q leaves. `stride`: from component to component of q.
void keep_errors(const float* components, const float* step, const int32_t* q, size_t stride, std::span<float> left) {
  for (size_t k = 0; k * kLanes < left.size(); ++k) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const size_t at = k * kLanes + lane;
      left[at] = components[at] - static_cast<float>(q[k * stride + lane]) * step[lane];
    }
  }
}

// Values to quantized components, 32 slots of a head at a time. False if a value is too large for the step.
bool transform_and_quantize(const TileContext& context, const TileInput& input, std::span<const float> rows,
                            QuantizedTile& tile) {
  const PlaneShape& shape = context.shape;
  const bool feedback = input.error_feedback > 0;
  const uint32_t finest = context.parameters.levels - 1;
  std::vector<float> values(size_t{shape.head_dim} * kLanes);
  std::vector<float> components((size_t{shape.head_dim} + kLanes) * kLanes);
  std::vector<int32_t> q(components.size());
  std::vector<float> left;  // [component][32], of the group before
  const std::vector<float> nothing(shape.head_dim, 0.0f);
  uint32_t first_component = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const ForwardTransform& transform = input.forward[head];
    const LaneOrder& order = tile.order[head];
    const float step = context.parameters.step[head] * kThirds[finest];
    left.assign(feedback ? size_t{transform.components()} * kLanes : 0, 0.0f);
    for (uint32_t first = 0; first < tile.tokens; first += kLanes) {
      const uint32_t lanes = std::min<uint32_t>(kLanes, tile.tokens - first);
      const float* of_lane[kLanes];
      float steps[kLanes];
      float inverse_step[kLanes];
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        const uint32_t slot = first + std::min(lane, lanes - 1);
        steps[lane] = step_of_class(step, order.token_class[slot]);
        inverse_step[lane] = 1.0f / steps[lane];
        of_lane[lane] = lane < lanes
                            ? &rows[size_t{order.token[slot]} * shape.channels() + size_t{head} * shape.head_dim]
                            : nothing.data();
      }
      kernels().columns(of_lane, shape.head_dim, values.data());
      transform.apply_to_group(values.data(), components.data());
      add_feedback(left, input.error_feedback, components.data());
      const bool whole = lanes == kLanes;
      int32_t* into = whole && transform.components() > 0 ? &tile.values(first_component)[first] : q.data();
      if (!kernels().quantize(components.data(), transform.components(), inverse_step, into,
                              whole ? tile.tokens : kLanes)) {
        return false;
      }
      keep_errors(components.data(), steps, into, whole ? tile.tokens : kLanes, left);
      for (uint32_t k = 0; k < transform.components() && !whole; ++k) {
        std::copy_n(&q[size_t{k} * kLanes], lanes, &tile.values(first_component + k)[first]);
      }
    }
    first_component += transform.components();
  }
  return true;
}

// Adds squares and sizes of a - b. In f32, many chains side by side, unless that overflows.
void add_errors(const float* a, const float* b, size_t count, LevelDistortion& distortion) {
  constexpr size_t kBlock = 8192;  // longer sums would lose digits
  for (size_t first = 0; first < count; first += kBlock) {
    const size_t end = std::min(count, first + kBlock);
    float sum[kErrorChains] = {};
    float largest[kErrorChains] = {};
    kernels().errors(a + first, b + first, end - first, sum, largest);
    double squares = 0;
    for (const float of_chain : sum) squares += double{of_chain};
    if (!std::isfinite(squares)) {
      squares = 0;
      for (size_t i = first; i < end; ++i) squares += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
    }
    distortion.squared_error += squares;
    for (const float of_chain : largest) distortion.max_error = std::max(distortion.max_error, double{of_chain});
  }
}

double sum_of_squares(std::span<const float> values) {
  constexpr size_t kBlock = 8192;
  static constexpr float kZeros[kBlock] = {};
  LevelDistortion squares;
  for (size_t first = 0; first < values.size(); first += kBlock) {
    add_errors(&values[first], kZeros, std::min(kBlock, values.size() - first), squares);
  }
  return squares.squared_error;
}

// Which of the tile's groups are decoded again, and into what.
struct MeasuredGroups {
  uint32_t first = 0;
  uint32_t every = 1;
  DType dtype = DType::kF32;
};

// A fourth of the groups where there are enough of them, others for every plane and chunk; f16 rounds by far less than
// the step. What is decoded as a whole tile only is measured as one.
MeasuredGroups groups_to_measure(const TileContext& context, const TileInput& input, uint32_t tokens,
                                 Measuring measuring) {
  constexpr uint32_t kEvery = 4;
  const PlaneShape& shape = context.shape;
  const bool whole = context.parameters.low_rank > 0 || dtype_is_quantized(shape.dtype) || shape.hadamard_block != 0;
  if (measuring == Measuring::kAll || whole || tokens < kEvery * kLanes) return {0, 1, shape.dtype};
  const uint32_t mix = shape.layer + 2 * (input.first / kLanes / kEvery) + (shape.side == Side::kKey ? 0 : 1);
  return {mix % kEvery, kEvery, DType::kF32};
}

// Compares `decoded` [token][channel] with `original` where the measured groups lie; sinks are kept exactly. Returns
// how many values were compared.
uint64_t add_errors_of_groups(const QuantizedTile& tile, const MeasuredGroups& groups, uint32_t head_dim,
                              std::span<const uint32_t> sinks, std::span<const float> decoded,
                              std::span<const float> original, LevelDistortion& distortion) {
  const size_t channels = tile.order.size() * head_dim;
  uint64_t compared = 0;
  for (size_t head = 0; head < tile.order.size(); ++head) {
    for (uint32_t first = groups.first * kLanes; first < tile.tokens; first += groups.every * kLanes) {
      for (uint32_t slot = first; slot < std::min(tile.tokens, first + kLanes); ++slot) {
        const uint32_t token = tile.order[head].token[slot];
        if (std::binary_search(sinks.begin(), sinks.end(), token)) continue;
        const size_t at = token * channels + head * head_dim;
        add_errors(&decoded[at], &original[at], head_dim, distortion);
        compared += head_dim;
      }
    }
  }
  return compared;
}

// Makes the rows that a decoder makes of every prefix of the levels, and compares them with the source (`original`,
// what is not finite set to zero). What is kept exactly has no error. `tile.q` ends as level 0's values.
void measure_distortion(const TileContext& context, const TileInput& input, std::span<const float> original,
                        const ExactValues& exact_values, const LowRankFactors& low_rank, Measuring measuring,
                        QuantizedTile& tile, EncodedTile& encoded) {
  const MeasuredGroups groups = groups_to_measure(context, input, tile.tokens, measuring);
  // Kept from tile to tile, as fresh memory costs more than what is done with it.
  thread_local Bytes stored;
  thread_local std::vector<float> decoded;
  thread_local std::vector<int32_t> parents;
  thread_local TileRows decoder;
  decoded.resize(original.size());
  parents.resize(tile.q.size());
  auto* into = reinterpret_cast<std::byte*>(decoded.data());
  if (groups.dtype != DType::kF32) {
    stored.resize(tile.tokens * input.view.packed_row_bytes());
    into = stored.data();
  }
  auto rows = make_row_view<std::byte>(into, groups.dtype, tile.tokens, context.shape.kv_heads, context.shape.head_dim);
  rows.hadamard_block = context.shape.hadamard_block;
  encoded.distortion.resize(context.parameters.levels);
  for (uint32_t level = context.parameters.levels; level-- > 0;) {
    decoder.open(context, level, tile.order, low_rank, rows);
    for (uint32_t group = groups.first; group * kLanes < tile.tokens; group += groups.every) {
      decoder.put_group(tile, group);
    }
    decoder.finish();
    if (groups.dtype != DType::kF32) load_rows(rows, 0, tile.tokens, decoded.data());
    for (const uint32_t index : exact_values.index) decoded[index] = original[index];
    LevelDistortion& distortion = encoded.distortion[level];
    const uint64_t compared =
        add_errors_of_groups(tile, groups, context.shape.head_dim, input.sinks, decoded, original, distortion);
    const uint64_t all = (tile.tokens - input.sinks.size()) * context.shape.channels();
    if (compared > 0) distortion.squared_error *= static_cast<double>(all) / static_cast<double>(compared);
    if (level == 0) break;
    kernels().parents(tile.q.data(), tile.q.size(), parents.data());
    std::swap(tile.q, parents);
  }
}

// The quantized form, or no levels if it cannot hold these values.
Result<EncodedTile> encode_quantized(const TileContext& context, const TileInput& input,
                                     std::span<const float> original, const ExactValues& exact_values,
                                     Measuring measuring) {
  const PlaneShape& shape = context.shape;
  const PlaneParameters& parameters = context.parameters;
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  EncodedTile encoded;
  thread_local std::vector<float> rows;
  rows.resize(original.size());
  const ExactTokens exact_tokens = take_sinks(input);
  if (context.rope != nullptr) {
    std::copy(original.begin(), original.end(), rows.begin());
    cached_rotation(*context.rope, context.positions).undo(rows, shape.kv_heads, shape.head_dim);
  }
  subtract_mean(context, input.sinks, context.rope != nullptr ? rows : original, rows);
  LowRankFactors low_rank;
  if (parameters.low_rank > 0) {
    low_rank = fit_low_rank(rows, tokens, shape.channels(), parameters.low_rank);
    add_low_rank(low_rank, -1.0f, rows, shape.channels());
  }
  const bool follow_key = !context.key_classes.empty();
  const auto classes = follow_key ? context.key_classes : input.token_classes;
  const bool any_class = std::any_of(classes.begin(), classes.end(), [](int8_t c) { return c != 0; });
  QuantizedTile tile = make_quantized_tile(parameters, shape, tokens, classes);
  if (!transform_and_quantize(context, input, rows, tile)) return encoded;
  std::vector<Bytes> bodies = encode_levels(tile, parameters);

  ByteWriter base;
  base.write(static_cast<uint8_t>(TileMode::kQuantized));
  write_exact_values(exact_values, base);
  write_exact_tokens(exact_tokens, base);
  write_token_classes(follow_key  ? TokenClassSource::kKeyTile
                      : any_class ? TokenClassSource::kOwn
                                  : TokenClassSource::kNone,
                      classes, shape.kv_heads, base);
  if (parameters.low_rank > 0) write_low_rank(low_rank, base);
  base.write_bytes(bodies[0]);
  encoded.levels = std::move(bodies);
  encoded.levels[0] = base.take();
  encoded.exact_values = exact_values.index.size();
  encoded.quantized = true;
  if (measuring != Measuring::kNone) {
    measure_distortion(context, input, original, exact_values, low_rank, measuring, tile, encoded);
  }
  return encoded;
}

// What is not finite counts as zero.
double squares_of_rows(const TileInput& input, uint32_t tokens) {
  constexpr uint32_t kRows = 16;  // at a time, which stay in the cache
  std::vector<float> values(size_t{kRows} * input.view.channels());
  double squares = 0;
  for (uint32_t first = 0; first < tokens; first += kRows) {
    const uint32_t count = std::min(kRows, tokens - first);
    const auto of_rows = std::span(values).first(size_t{count} * input.view.channels());
    load_rows(input.view, input.first + first, count, of_rows.data());
    if (!all_finite(of_rows.data(), of_rows.size())) {
      for (float& value : of_rows) value = std::isfinite(value) ? value : 0.0f;
    }
    squares += sum_of_squares(of_rows);
  }
  return squares;
}

}  // namespace

Result<EncodedTile> encode_tile(const TileContext& context, const TileInput& input, Measuring measuring) {
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  const bool measure = measuring != Measuring::kNone;
  EncodedTile tile;
  if (context.parameters.lossless) {
    KVPACK_ASSIGN_OR_RETURN(tile, encode_exact(context, input));
    if (measure) tile.squared_values = squares_of_rows(input, tokens);
  } else {
    thread_local std::vector<float> original;
    original.resize(size_t{tokens} * context.shape.channels());
    load_rows(input.view, input.first, tokens, original.data());
    ExactValues exact_values;
    bool quantizable = true;
    if (!all_finite(original.data(), original.size())) {
      quantizable = take_non_finite(input.view, input.first, original, exact_values);
    }
    if (quantizable) {
      KVPACK_ASSIGN_OR_RETURN(tile, encode_quantized(context, input, original, exact_values, measuring));
      uint64_t bytes = 0;
      for (const Bytes& level : tile.levels) bytes += level.size();
      // Exact coding wins where quantizing fails or saves nothing.
      if (bytes >= tokens * input.view.packed_row_bytes()) tile = {};
    }
    if (tile.levels.empty()) {
      KVPACK_ASSIGN_OR_RETURN(tile, encode_exact(context, input));
    }
    if (measure) tile.squared_values = sum_of_squares(original);
  }
  if (measure) tile.distortion.resize(tile.levels.size());
  return tile;
}

}  // namespace kvpack
