// SPDX-License-Identifier: Apache-2.0
#include "tests/memory/streamed_context.h"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "formats/byte_io.h"
#include "formats/half.h"

namespace kvpack::test {
namespace {

// Rows are drawn from so many per plane: no coder here looks further than one row.
constexpr uint32_t kPoolRows = 512;
constexpr uint32_t kDirections = 8;

// [row][channel] f16.
std::vector<uint16_t> draw_rows(const ContextShape& shape, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const uint32_t channels = shape.kv_heads * shape.head_dim;
  std::vector<float> mean(channels), scale(channels), mix(size_t{channels} * kDirections);
  for (float& m : mean) m = 2 * normal(random);
  for (float& s : scale) s = std::exp(0.7f * normal(random));
  for (float& m : mix) m = normal(random);
  std::vector<uint16_t> rows;
  for (uint32_t row = 0; row < kPoolRows; ++row) {
    float hidden[kDirections];
    for (float& h : hidden) h = normal(random);
    for (uint32_t c = 0; c < channels; ++c) {
      float value = normal(random);
      for (uint32_t k = 0; k < kDirections; ++k) value += hidden[k] * mix[size_t{c} * kDirections + k];
      rows.push_back(f32_to_f16(mean[c] + scale[c] * value));
    }
  }
  return rows;
}

Status write_plane(const ContextShape& shape, std::mt19937& random, ByteSink& file) {
  const std::vector<uint16_t> rows = draw_rows(shape, random);
  const size_t row_bytes = size_t{shape.kv_heads} * shape.head_dim * 2;
  ByteWriter head;
  head.write(int32_t{1});  // ggml's f16
  head.write(uint64_t{row_bytes});
  KVPACK_RETURN_IF_ERROR(file.write(head.bytes()));
  constexpr uint32_t kTokensAtOnce = 1024;
  for (uint32_t first = 0; first < shape.tokens; first += kTokensAtOnce) {
    ByteWriter part;
    for (uint32_t t = first; t < std::min(shape.tokens, first + kTokensAtOnce); ++t) {
      part.write_bytes(std::as_bytes(std::span(rows)).subspan(random() % kPoolRows * row_bytes, row_bytes));
    }
    KVPACK_RETURN_IF_ERROR(file.write(part.bytes()));
  }
  return {};
}

}  // namespace

Status write_context(const ContextShape& shape, const std::string& path) {
  KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(path, /*overwrite=*/true));
  std::mt19937 random(7);
  ByteWriter head;
  head.write(uint32_t{0x67677371});  // "ggsq"
  head.write(uint32_t{3});
  head.write(shape.tokens);
  for (uint32_t t = 0; t < shape.tokens; ++t) head.write(static_cast<int32_t>(random() % 32000));
  head.write(uint32_t{1});  // streams
  head.write(shape.tokens);
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    head.write(static_cast<int32_t>(t));  // position
    head.write(uint32_t{1});              // one sequence: 0
    head.write(int32_t{0});
  }
  head.write(uint32_t{0});  // V by token
  head.write(shape.layers);
  KVPACK_RETURN_IF_ERROR(file->write(head.bytes()));
  for (uint32_t plane = 0; plane < 2 * shape.layers; ++plane) {
    KVPACK_RETURN_IF_ERROR(write_plane(shape, random, *file));
  }
  return file->commit();
}

Status write_context_model(const ContextShape& shape, const std::string& path) {
  std::string frequencies;
  for (uint32_t j = 0; j < shape.head_dim / 2; ++j) {
    frequencies += fmt::format("{}{}", j == 0 ? "" : ", ", std::pow(500000.0, -2.0 * j / shape.head_dim));
  }
  const std::string json = fmt::format(
      R"({{"kvpack_model": 1, "architecture": "llama", "name": "streamed", "fingerprint": "",
"ropes": [{{"style": "norm", "first_channel": 0, "base": 500000, "magnitude": 1, "inv_freq": [{}]}}],
"layers": [{{"count": {}, "kv_heads": {}, "key_dim": {}, "value_dim": {}, "rope": 0, "sliding": false, "recurrent": false}}]}}
)",
      frequencies, shape.layers, shape.kv_heads, shape.head_dim, shape.head_dim);
  KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(path, /*overwrite=*/true));
  KVPACK_RETURN_IF_ERROR(file->write(as_byte_span(json)));
  return file->commit();
}

}  // namespace kvpack::test
