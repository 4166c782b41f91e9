// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "codec/level_code.h"
#include "codec/lossless.h"
#include "codec/low_rank.h"
#include "codec/outliers.h"
#include "codec/quantizer.h"
#include "codec/rope.h"
#include "codec/tile.h"

namespace kvpack {
namespace {

Bytes load_stored_rows(const TileContext& context, const TileInput& input) {
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  Bytes stored(tokens * input.view.packed_row_bytes());
  load_raw(input.view, input.first, tokens, stored.data());
  return stored;
}

// Byte planes, or the rows as they are if those are smaller.
Result<EncodedTile> encode_exact(const TileContext& context, const TileInput& input) {
  const Bytes stored = load_stored_rows(context, input);
  KVPACK_ASSIGN_OR_RETURN(Bytes planes, encode_lossless(stored, context.shape.dtype, context.shape.channels()));
  const bool smaller = planes.size() < stored.size();
  ByteWriter out;
  out.write(static_cast<uint8_t>(smaller ? TileMode::kLossless : TileMode::kRaw));
  out.write_bytes(smaller ? planes : stored);
  EncodedTile tile;
  tile.levels.resize(context.parameters.lossless ? 1 : context.parameters.levels);
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
void subtract_mean(const TileContext& context, std::span<const uint32_t> sinks, std::span<float> rows) {
  const uint32_t channels = context.shape.channels();
  const std::vector<float>& mean = context.parameters.mean_values;
  for (size_t i = 0; i < rows.size(); ++i) rows[i] -= mean[i % channels];
  for (const uint32_t token : sinks) std::fill_n(rows.begin() + size_t{token} * channels, channels, 0.0f);
}

// Values to quantized components. False if a value is too large for the step.
bool transform_and_quantize(const TileContext& context, std::span<const ForwardTransform> forward,
                            std::span<const float> rows, QuantizedTile& tile) {
  const PlaneShape& shape = context.shape;
  const uint32_t finest = context.parameters.levels - 1;
  std::vector<float> components;
  uint32_t first_component = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const ForwardTransform& transform = forward[head];
    const float step = context.parameters.step[head] * kThirds[finest];
    components.assign(transform.components(), 0.0f);
    for (uint32_t slot = 0; slot < tile.tokens; ++slot) {
      transform.apply(&rows[size_t{tile.order[head].token[slot]} * shape.channels() + size_t{head} * shape.head_dim],
                      components.data());
      const float inverse_step = 1.0f / step_of_class(step, tile.order[head].token_class[slot]);
      for (uint32_t k = 0; k < transform.components(); ++k) {
        if (!(std::fabs(components[k] * inverse_step) < static_cast<float>(kMaxQuantized))) return false;
        tile.values(first_component + k)[slot] = quantize(components[k], inverse_step);
      }
    }
    first_component += transform.components();
  }
  return true;
}

// Decodes every prefix of the levels and compares with the source.
Status measure_distortion(const TileContext& context, const TileInput& input, std::span<const float> original,
                          EncodedTile& tile) {
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  Bytes stored(tokens * input.view.packed_row_bytes());
  auto rows = make_row_view<std::byte>(stored.data(), context.shape.dtype, tokens, context.shape.kv_heads,
                                       context.shape.head_dim);
  rows.hadamard_block = context.shape.hadamard_block;
  std::vector<float> decoded(original.size());
  std::vector<ByteSpan> levels;
  for (const Bytes& level : tile.levels) {
    levels.emplace_back(level);
    KVPACK_RETURN_IF_ERROR(decode_tile(context, levels, rows));
    load_values(rows, 0, tokens, decoded.data());
    LevelDistortion distortion;
    for (size_t i = 0; i < original.size(); ++i) {
      if (!std::isfinite(original[i])) continue;
      const double error = static_cast<double>(decoded[i]) - static_cast<double>(original[i]);
      distortion.squared_error += error * error;
      distortion.max_error = std::max(distortion.max_error, std::fabs(error));
    }
    tile.distortion.push_back(distortion);
  }
  for (const float value : original) {
    if (std::isfinite(value)) tile.squared_values += static_cast<double>(value) * static_cast<double>(value);
  }
  return {};
}

// The quantized form, or no levels if it cannot hold these values.
Result<EncodedTile> encode_quantized(const TileContext& context, const TileInput& input, std::vector<float> rows) {
  const PlaneShape& shape = context.shape;
  const PlaneParameters& parameters = context.parameters;
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  EncodedTile encoded;
  ExactValues exact_values;
  if (!take_non_finite(input.view, input.first, rows, exact_values)) return encoded;
  const ExactTokens exact_tokens = take_sinks(input);
  if (context.rope != nullptr)
    RopeRotation(*context.rope, context.positions).undo(rows, shape.kv_heads, shape.head_dim);
  subtract_mean(context, input.sinks, rows);
  LowRankFactors low_rank;
  if (parameters.low_rank > 0) {
    low_rank = fit_low_rank(rows, tokens, shape.channels(), parameters.low_rank);
    add_low_rank(low_rank, -1.0f, rows, shape.channels());
  }
  const bool follow_key = !context.key_classes.empty();
  const auto classes = follow_key ? context.key_classes : input.token_classes;
  const bool any_class = std::any_of(classes.begin(), classes.end(), [](int8_t c) { return c != 0; });
  QuantizedTile tile = make_quantized_tile(parameters, shape, tokens, classes);
  if (!transform_and_quantize(context, input.forward, rows, tile)) return encoded;
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
  return encoded;
}

}  // namespace

Result<EncodedTile> encode_tile(const TileContext& context, const TileInput& input, bool measure) {
  const uint32_t tokens = static_cast<uint32_t>(context.positions.size());
  std::vector<float> original(size_t{tokens} * context.shape.channels());
  if (!context.parameters.lossless || measure) load_values(input.view, input.first, tokens, original.data());
  EncodedTile tile;
  if (!context.parameters.lossless) {
    KVPACK_ASSIGN_OR_RETURN(tile, encode_quantized(context, input, original));
    uint64_t bytes = 0;
    for (const Bytes& level : tile.levels) bytes += level.size();
    // Exact coding wins where quantizing fails or saves nothing.
    if (bytes >= tokens * input.view.packed_row_bytes()) tile = {};
  }
  if (tile.levels.empty()) {
    KVPACK_ASSIGN_OR_RETURN(tile, encode_exact(context, input));
  }
  if (measure) KVPACK_RETURN_IF_ERROR(measure_distortion(context, input, original, tile));
  return tile;
}

}  // namespace kvpack
