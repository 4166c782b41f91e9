// SPDX-License-Identifier: Apache-2.0
// Generated files of every shape and type, through an archive and back: lossless to the byte, lossy to the same layout.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"
#include "tests/state_builder.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

struct Shape {
  uint32_t tokens, layers, key_values, value_values;
};

Bytes state_of(const Shape& shape, DType dtype, bool transposed) {
  BlockFields fields;
  fields.positions.clear();
  for (uint32_t p = 0; p < shape.tokens; ++p) fields.positions.push_back(static_cast<int32_t>(p));
  fields.layers = shape.layers;
  fields.key_values = shape.key_values;
  fields.value_values = shape.value_values;
  fields.key_type = dtype;
  fields.value_type = transposed ? DType::kF16 : dtype;
  fields.v_trans = transposed ? 1 : 0;
  return small_sequence(fields);
}

void check_round_trip(const Bytes& bytes, double lossy_bound) {
  const KvFile file = read_kv(bytes);
  CAPTURE(file.description);
  const Bytes lossless = pack(file, nullptr, Quality::kLossless);
  CHECK(restore(lossless) == bytes);
  CHECK(lossless.size() < bytes.size() + 8192);
  for (const Quality quality : {Quality::kHigh, Quality::kMedium, Quality::kLow}) {
    CAPTURE(quality_name(quality));
    const Bytes archive = pack(file, nullptr, quality);
    CHECK(archive.size() < bytes.size() + 8192);
    const Bytes restored = restore(archive);
    REQUIRE(restored.size() == bytes.size());
    const KvFile back = read_kv(restored);
    CHECK(back.container == file.container);
    CHECK(relative_error(file.tensor, back.tensor) < lossy_bound);
    // The tensor and the file say the same (block types: the file's values are quantized once more).
    const KvTensor tensor = unpack(archive);
    const bool plain = !dtype_is_quantized(file.tensor.planes[0].view.dtype);
    CHECK(relative_error(back.tensor, tensor) < (plain ? 1e-9 : 0.3));
  }
}

constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kBf16, DType::kQ8_0, DType::kQ4_0,
                               DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIq4Nl};

}  // namespace

TEST_CASE("round trips: every cache type from 1 to 1,000 tokens") {
  for (const DType dtype : kAllTypes) {
    for (const uint32_t tokens : {1u, 2u, 31u, 33u, 256u, 257u, 1000u}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(tokens);
      check_round_trip(state_of({tokens, 1, 64, 32}, dtype, false), 0.4);
    }
  }
}

TEST_CASE("round trips: rows of any width, K and V apart, one layer and several, row and transposed V") {
  const Shape shapes[] = {{1, 1, 1, 1},   {5, 3, 7, 3},     {40, 2, 1, 129}, {40, 1, 257, 5},
                          {257, 2, 9, 6}, {300, 1, 64, 96}, {1000, 1, 3, 1}};
  for (const Shape& shape : shapes) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
      for (const bool transposed : {false, true}) {
        CAPTURE(shape.tokens);
        CAPTURE(shape.key_values);
        CAPTURE(dtype_name(dtype));
        CAPTURE(transposed);
        check_round_trip(state_of(shape, dtype, transposed), 0.4);
      }
    }
  }
}

TEST_CASE("round trips: sliding windows, streams, K only, recurrent state, no values at all") {
  BlockFields full, window, keys;
  full.positions.clear();
  for (int32_t p = 0; p < 50; ++p) full.positions.push_back(p);
  window.positions = {46, 47, 49, 48};
  keys = full;
  keys.has_v = false;
  keys.key_values = 48;
  BlockFields four = full;
  four.streams = 4;
  four.filled_stream = 3;
  check_round_trip(StateBuilder().sequence_head().block(full).block(window).take(), 0.4);
  check_round_trip(StateBuilder().sequence_head().block(four).take(), 0.4);
  check_round_trip(StateBuilder().sequence_head().block(keys).take(), 0.4);
  check_round_trip(StateBuilder().sequence_head().block(full).recurrent(4, 2, 64).take(), 0.4);
  check_round_trip(StateBuilder().session_head({1, 2, 3}, "gemma2").block(full).block(window).take(), 0.4);
  const Bytes recurrent = StateBuilder().sequence_head().recurrent(4, 2, 64).take();
  CHECK(restore(pack(read_kv(recurrent), nullptr, Quality::kMedium)) == recurrent);
  BlockFields empty;
  empty.positions.clear();
  CHECK(restore(pack(read_kv(small_sequence(empty)), nullptr, Quality::kMedium)) == small_sequence(empty));
}

TEST_CASE("round trips: safetensors and npy of generated shapes") {
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    for (const uint32_t tokens : {1u, 33u, 1000u}) {
      RandomShape shape;
      shape.dtype = dtype;
      shape.tokens = tokens;
      shape.kv_heads = 3;
      shape.key_dim = 10;
      shape.value_dim = 7;
      const KvFile source = random_kv_file(shape);
      check_round_trip(must(write_safetensors(source.tensor, source.tokens, std::nullopt)), 0.26);
      shape.value_dim = shape.key_dim;
      check_round_trip(must(write_npy(random_kv_file(shape).tensor, std::nullopt)), 0.26);
    }
  }
}

TEST_CASE("round trips: NaN and infinities in a file survive lossless to the bit and lossy in place") {
  Bytes bytes = state_of({40, 1, 16, 16}, DType::kF16, false);
  const uint16_t odd[] = {0x7e01, 0xfe00, 0x7c00, 0xfc00, 0x7c01};  // NaNs with payloads, infinities, a signalling NaN
  const size_t first = bytes.size() - 2 * (12 + 40 * 32) + 12;
  for (size_t i = 0; i < 5; ++i) std::memcpy(bytes.data() + first + 2 * (37 + 101 * i), &odd[i], 2);
  CHECK(restore(pack(read_kv(bytes), nullptr, Quality::kLossless)) == bytes);
  const Bytes medium = restore(pack(read_kv(bytes), nullptr, Quality::kMedium));
  REQUIRE(medium.size() == bytes.size());
  for (size_t i = 0; i < 5; ++i) CHECK(std::memcmp(medium.data() + first + 2 * (37 + 101 * i), &odd[i], 2) == 0);
}
