// SPDX-License-Identifier: Apache-2.0
// llama.cpp state files from their fields, right or wrong. The layout is written out here a second time (llama.cpp
// v0.5.0, state_write of llama-context, llama-kv-cache, llama-memory-recurrent) and not shared with formats/, so that
// both would have to be wrong in the same way.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "formats/half.h"
#include "formats/kv_tensor.h"

namespace kvpack::test {

// One KV block with one filled stream. Unset optional fields follow from the others.
struct BlockFields {
  uint32_t streams = 1;
  uint32_t filled_stream = 0;
  std::vector<int32_t> positions = {0, 1, 2};
  bool ext = false;
  uint32_t sequences = 1;  // n_seq_id of every cell
  uint32_t v_trans = 0;
  uint32_t layers = 2;
  bool has_v = true;
  DType key_type = DType::kF16;
  DType value_type = DType::kF16;
  uint32_t key_values = 64;  // of a row
  uint32_t value_values = 64;
  std::optional<uint32_t> cell_count;
  std::optional<int32_t> type;
  std::optional<uint64_t> row_bytes;
  std::optional<uint32_t> element_bytes;
};

class StateBuilder {
 public:
  StateBuilder& u32(uint32_t value) { return writer_.write(value), *this; }
  StateBuilder& i32(int32_t value) { return writer_.write(value), *this; }
  StateBuilder& u64(uint64_t value) { return writer_.write(value), *this; }
  StateBuilder& bytes(std::string_view text) { return writer_.write_bytes(as_byte_span(text)), *this; }

  StateBuilder& sequence_head(const std::vector<int32_t>& words = {7, 8, 9}) {
    u32(0x67677371).u32(3).u32(static_cast<uint32_t>(words.size()));
    for (const int32_t word : words) i32(word);
    return *this;
  }
  StateBuilder& session_head(const std::vector<int32_t>& tokens, std::string_view architecture) {
    u32(0x6767736e).u32(10).u32(static_cast<uint32_t>(tokens.size()));
    for (const int32_t token : tokens) i32(token);
    return u32(static_cast<uint32_t>(architecture.size())).bytes(architecture);
  }

  StateBuilder& block(const BlockFields& fields) {
    u32(fields.streams);
    for (uint32_t s = 0; s < fields.streams; ++s) {
      if (s == fields.filled_stream && !fields.positions.empty()) {
        stream(fields);
      } else {
        u32(0);
      }
    }
    return *this;
  }

  // A recurrent block of `layers` layers of which `rows` hold `row_bytes` each of R and S.
  StateBuilder& recurrent(uint32_t layers, uint32_t rows, uint32_t row_bytes) {
    u32(1).i32(2).u32(0).u32(0).u32(layers);
    for (uint32_t i = 0; i < 2 * rows; ++i) {
      i32(0).u64(row_bytes);
      for (uint32_t b = 0; b < row_bytes / 4; ++b) u32(static_cast<uint32_t>(random_()));
    }
    return *this;
  }

  Bytes take() { return writer_.take(); }

 private:
  void stream(const BlockFields& fields) {
    u32(fields.cell_count.value_or(static_cast<uint32_t>(fields.positions.size())));
    for (const int32_t position : fields.positions) {
      i32(position).u32(fields.sequences);
      if (fields.ext) i32(position).i32(position).i32(5);
      for (uint32_t i = 0; i < fields.sequences; ++i) i32(static_cast<int32_t>(fields.filled_stream));
    }
    u32(fields.v_trans).u32(fields.layers);
    for (uint32_t layer = 0; layer < fields.layers; ++layer) rows(fields, fields.key_type, fields.key_values);
    for (uint32_t layer = 0; fields.has_v && layer < fields.layers; ++layer) {
      fields.v_trans == 1 ? columns(fields) : rows(fields, fields.value_type, fields.value_values);
    }
  }
  void rows(const BlockFields& fields, DType dtype, uint32_t values) {
    const uint64_t row = uint64_t{values} / dtype_block_values(dtype) * dtype_block_bytes(dtype);
    i32(fields.type.value_or(static_cast<int32_t>(dtype))).u64(fields.row_bytes.value_or(row));
    data(dtype, row * fields.positions.size());
  }
  void columns(const BlockFields& fields) {
    i32(fields.type.value_or(static_cast<int32_t>(fields.value_type)));
    u32(fields.element_bytes.value_or(dtype_block_bytes(fields.value_type))).u32(fields.value_values);
    data(fields.value_type,
         uint64_t{dtype_block_bytes(fields.value_type)} * fields.value_values * fields.positions.size());
  }
  // Plausible values: halves between -2 and 2 (block types: every half is a scale or packed codes).
  void data(DType dtype, uint64_t count) {
    std::uniform_real_distribution<float> uniform(-2, 2);
    if (dtype == DType::kF32) {
      for (uint64_t i = 0; i < count; i += 4) writer_.write(uniform(random_));
      return;
    }
    for (uint64_t i = 0; i < count; i += 2) {
      writer_.write(dtype == DType::kBf16 ? f32_to_bf16(uniform(random_)) : f32_to_f16(uniform(random_)));
    }
  }

  ByteWriter writer_;
  std::mt19937 random_{17};
};

inline Bytes small_sequence(const BlockFields& fields = {}) {
  return StateBuilder().sequence_head().block(fields).take();
}

}  // namespace kvpack::test
