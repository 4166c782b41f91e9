// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/plain_state.h"

#include <fmt/format.h>
#include <ggml.h>

#include <cmath>

#include "formats/half.h"

namespace kvpack::engine {
namespace {

constexpr uint32_t kMagic = 0x67677371;
constexpr uint32_t kVersion = 3;

Status expect(ByteReader& reader, uint32_t value, std::string_view what) {
  KVPACK_ASSIGN_OR_RETURN(const uint32_t found, reader.read<uint32_t>(what));
  if (found == value) return {};
  return unsupported(fmt::format("{} at offset {}: expected {}, found {}", what, reader.offset() - 4, value, found));
}

Status skip_cells(ByteReader& reader, uint32_t cells) {
  for (uint32_t i = 0; i < cells; ++i) {
    KVPACK_RETURN_IF_ERROR(reader.take(4, "position"));
    KVPACK_RETURN_IF_ERROR(expect(reader, 1, "count of sequences"));
    KVPACK_RETURN_IF_ERROR(reader.take(4, "sequence"));
  }
  return {};
}

Status find_block(ByteReader& reader, std::vector<StatePlane>* planes) {
  KVPACK_RETURN_IF_ERROR(expect(reader, 1, "count of streams"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t cells, reader.read<uint32_t>("count of cells"));
  KVPACK_RETURN_IF_ERROR(skip_cells(reader, cells));
  KVPACK_RETURN_IF_ERROR(expect(reader, 0, "transposition of V"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t layers, reader.read<uint32_t>("count of layers"));
  for (const Side side : {Side::kKey, Side::kValue}) {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      KVPACK_RETURN_IF_ERROR(expect(reader, static_cast<uint32_t>(DType::kF16), "type of a layer"));
      KVPACK_ASSIGN_OR_RETURN(const uint64_t row_bytes, reader.read<uint64_t>("bytes of a row"));
      if (row_bytes > 1u << 20) return unsupported(fmt::format("a row of {} bytes", row_bytes));
      planes->push_back({side, reader.offset(), cells, static_cast<uint32_t>(row_bytes)});
      KVPACK_RETURN_IF_ERROR(reader.take(planes->back().bytes(), "rows of a layer"));
    }
  }
  return {};
}

float value_at(ByteSpan state, uint64_t offset) {
  uint16_t half;
  std::memcpy(&half, state.data() + offset, sizeof half);
  return f16_to_f32(half);
}

// In place, in blocks: the orthonormal Sylvester matrix by its butterflies.
void rotate(float* values, uint32_t count, uint32_t block) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (uint32_t start = 0; start < count; start += block) {
    float* x = values + start;
    for (uint32_t half = 1; half < block; half *= 2) {
      for (uint32_t i = 0; i < block; ++i) {
        if ((i & half) != 0) continue;
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
    for (uint32_t i = 0; i < block; ++i) x[i] *= scale;
  }
}

// K: the largest 64 * 2^k that divides head_dim. V: 64. None (0) when 64 does not divide.
uint32_t rotation_block(Side side, uint32_t key_head_dim, uint32_t channels) {
  uint32_t block = 64;
  if (side == Side::kKey) {
    if (key_head_dim % block != 0) return 0;
    while (key_head_dim % (block * 2) == 0) block *= 2;
  }
  return channels % block == 0 ? block : 0;
}

}  // namespace

Result<std::vector<StatePlane>> find_planes(ByteSpan state) {
  ByteReader reader(state);
  KVPACK_RETURN_IF_ERROR(expect(reader, kMagic, "magic"));
  KVPACK_RETURN_IF_ERROR(expect(reader, kVersion, "version"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t words, reader.read<uint32_t>("count of payload words"));
  KVPACK_RETURN_IF_ERROR(reader.take(uint64_t{words} * 4, "payload"));
  std::vector<StatePlane> planes;
  while (!reader.at_end()) KVPACK_RETURN_IF_ERROR(find_block(reader, &planes));
  return planes;
}

uint64_t count_values(const std::vector<StatePlane>& planes) {
  uint64_t values = 0;
  for (const StatePlane& plane : planes) values += plane.bytes() / 2;
  return values;
}

double relative_l2_error(const std::vector<StatePlane>& planes, ByteSpan reference, ByteSpan test) {
  double error = 0, energy = 0;
  for (const StatePlane& plane : planes) {
    for (uint64_t at = plane.offset; at < plane.offset + plane.bytes(); at += 2) {
      const double a = value_at(reference, at);
      const double difference = a - value_at(test, at);
      error += difference * difference;
      energy += a * a;
    }
  }
  return energy > 0 ? std::sqrt(error / energy) : 0;
}

QuantizedState through_quantized_cache(const std::vector<StatePlane>& planes, ByteSpan state, DType type,
                                       uint32_t key_head_dim) {
  const auto ggml = static_cast<ggml_type>(type);
  QuantizedState result{Bytes(state.begin(), state.end()), state.size()};
  for (const StatePlane& plane : planes) {
    const uint32_t channels = plane.channels();
    const uint32_t block = rotation_block(plane.side, key_head_dim, channels);
    const size_t quantized_row_bytes = ggml_row_size(ggml, channels);
    result.file_bytes -= plane.bytes() - uint64_t{plane.tokens} * quantized_row_bytes;
    std::vector<float> row(channels);
    std::vector<std::byte> blocks(quantized_row_bytes);
    for (uint64_t at = plane.offset; at < plane.offset + plane.bytes(); at += plane.row_bytes) {
      for (uint32_t i = 0; i < channels; ++i) row[i] = value_at(state, at + 2 * i);
      if (block != 0) rotate(row.data(), channels, block);
      ggml_quantize_chunk(ggml, row.data(), blocks.data(), 0, 1, channels, nullptr);
      ggml_get_type_traits(ggml)->to_float(blocks.data(), row.data(), channels);
      if (block != 0) rotate(row.data(), channels, block);
      for (uint32_t i = 0; i < channels; ++i) {
        const uint16_t half = f32_to_f16(row[i]);
        std::memcpy(result.restored.data() + at + 2 * i, &half, sizeof half);
      }
    }
  }
  return result;
}

}  // namespace kvpack::engine
