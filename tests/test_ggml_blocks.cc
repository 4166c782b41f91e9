// SPDX-License-Identifier: Apache-2.0
// The block types against their definitions (ggml-quants.c), written out here a second time from the block layouts.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "formats/bytes.h"
#include "formats/ggml_blocks.h"
#include "formats/half.h"

using namespace kvpack;

namespace {

constexpr DType kBlockTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIq4Nl};
constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kBf16, DType::kQ8_0, DType::kQ4_0,
                               DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIq4Nl};

std::vector<float> random_values(size_t count, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

Bytes quantized(DType dtype, const std::vector<float>& values) {
  Bytes blocks(values.size() / 32 * dtype_block_bytes(dtype));
  quantize_blocks(dtype, values.data(), static_cast<uint32_t>(values.size()), blocks.data());
  return blocks;
}

std::vector<float> dequantized(DType dtype, const Bytes& blocks) {
  std::vector<float> values(blocks.size() / dtype_block_bytes(dtype) * 32);
  dequantize_blocks(dtype, blocks.data(), static_cast<uint32_t>(values.size()), values.data());
  return values;
}

// The largest distance from a value to the nearest level of its block, in units of the block's range.
double worst_relative_error(const std::vector<float>& from, const std::vector<float>& to) {
  double worst = 0;
  for (size_t block = 0; block < from.size(); block += 32) {
    float extreme = 0;
    for (size_t i = block; i < block + 32; ++i) extreme = std::max(extreme, std::fabs(from[i]));
    for (size_t i = block; i < block + 32; ++i) {
      worst = std::max(worst, std::fabs(double{from[i]} - double{to[i]}) / extreme);
    }
  }
  return worst;
}

// A block of the given header halves and packed bytes.
Bytes block_of(std::initializer_list<float> halves, const std::vector<uint8_t>& rest) {
  ByteWriter writer;
  for (const float half : halves) writer.write(f32_to_f16(half));
  for (const uint8_t byte : rest) writer.write(byte);
  return writer.take();
}

}  // namespace

TEST_CASE("blocks: sizes and names are ggml's") {
  const struct {
    DType dtype;
    const char* name;
    int id;
    uint32_t values, bytes;
  } expected[] = {
      {DType::kF32, "f32", 0, 1, 4},     {DType::kF16, "f16", 1, 1, 2},         {DType::kQ4_0, "q4_0", 2, 32, 18},
      {DType::kQ4_1, "q4_1", 3, 32, 20}, {DType::kQ5_0, "q5_0", 6, 32, 22},     {DType::kQ5_1, "q5_1", 7, 32, 24},
      {DType::kQ8_0, "q8_0", 8, 32, 34}, {DType::kIq4Nl, "iq4_nl", 20, 32, 18}, {DType::kBf16, "bf16", 30, 1, 2}};
  for (const auto& type : expected) {
    CAPTURE(type.name);
    CHECK(static_cast<int>(type.dtype) == type.id);
    CHECK(dtype_name(type.dtype) == type.name);
    CHECK(dtype_block_values(type.dtype) == type.values);
    CHECK(dtype_block_bytes(type.dtype) == type.bytes);
    CHECK(dtype_is_known(type.id));
    REQUIRE(dtype_from_name(type.name).ok());
    CHECK(*dtype_from_name(type.name) == type.dtype);
  }
  for (const int unknown : {-1, 4, 5, 9, 10, 19, 21, 29, 31, 256 + 1, INT32_MAX}) CHECK_FALSE(dtype_is_known(unknown));
  const auto wrong = dtype_from_name("q3_k");
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.error().message.find("iq4_nl") != std::string::npos);
}

TEST_CASE("blocks: every code of every type decodes by its formula") {
  const float d = 0.25f;
  const float m = -1.5f;
  std::vector<uint8_t> bytes(32);
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<uint8_t>(i * 8 + 1);
  const auto eights = dequantized(DType::kQ8_0, block_of({d}, bytes));
  for (int i = 0; i < 32; ++i) CHECK(eights[i] == d * static_cast<float>(static_cast<int8_t>(bytes[i])));

  // Value j in the low nibble of byte j, value j + 16 in the high one: all 16 codes in each half.
  std::vector<uint8_t> nibbles(16);
  for (int j = 0; j < 16; ++j) nibbles[j] = static_cast<uint8_t>(j | ((15 - j) << 4));
  const auto code = [](int i) { return i < 16 ? i : 15 - (i - 16); };
  const auto four = dequantized(DType::kQ4_0, block_of({d}, nibbles));
  const auto four_one = dequantized(DType::kQ4_1, block_of({d, m}, nibbles));
  const auto nonlinear = dequantized(DType::kIq4Nl, block_of({d}, nibbles));
  const float levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  for (int i = 0; i < 32; ++i) {
    CHECK(four[i] == d * static_cast<float>(code(i) - 8));
    CHECK(four_one[i] == d * static_cast<float>(code(i)) + m);
    CHECK(nonlinear[i] == d * levels[code(i)]);
  }
  // Bit i of qh is bit 4 of value i.
  const uint32_t fifth = 0xa53c0ff1;
  std::vector<uint8_t> fives = {fifth & 255, (fifth >> 8) & 255, (fifth >> 16) & 255, fifth >> 24};
  fives.insert(fives.end(), nibbles.begin(), nibbles.end());
  const auto five = dequantized(DType::kQ5_0, block_of({d}, fives));
  const auto five_one = dequantized(DType::kQ5_1, block_of({d, m}, fives));
  for (int i = 0; i < 32; ++i) {
    const int q = code(i) + (((fifth >> i) & 1) != 0 ? 16 : 0);
    CHECK(five[i] == d * static_cast<float>(q - 16));
    CHECK(five_one[i] == d * static_cast<float>(q) + m);
  }
}

TEST_CASE("blocks: quantizing is as fine as the type allows") {
  const std::vector<float> values = random_values(32 * 400, 3);
  const struct {
    DType dtype;
    double bound;  // of the block's largest magnitude; half a step and the rounding of the scale
  } bounds[] = {{DType::kQ8_0, 0.5 / 127 + 1e-3}, {DType::kQ4_0, 1.0 / 8 + 1e-3},  {DType::kQ4_1, 1.0 / 15 + 2e-3},
                {DType::kQ5_0, 1.0 / 16 + 1e-3},  {DType::kQ5_1, 1.0 / 31 + 2e-3}, {DType::kIq4Nl, 0.25}};
  for (const auto& [dtype, bound] : bounds) {
    CAPTURE(dtype_name(dtype));
    const double worst = worst_relative_error(values, dequantized(dtype, quantized(dtype, values)));
    CHECK(worst <= bound);
    CHECK(worst > 0);
  }
}

TEST_CASE("blocks: q8_0 by hand") {
  std::vector<float> values(32, 0.0f);
  values[0] = 127;
  values[1] = -127;
  values[2] = 0.5f;  // away from zero, as roundf
  values[3] = -0.5f;
  values[4] = 63.49f;
  const Bytes block = quantized(DType::kQ8_0, values);
  CHECK(block == block_of({1.0f}, [] {
          std::vector<uint8_t> q(32, 0);
          q[0] = 127, q[1] = 129, q[2] = 1, q[3] = 255, q[4] = 63;
          return q;
        }()));
}

TEST_CASE("blocks: q4_0 keeps the sign of the extreme value") {
  std::vector<float> values(32, 0.0f);
  values[5] = 8;  // d = 8 / -8: the extreme is code 0 exactly
  values[20] = -7;
  const auto positive = dequantized(DType::kQ4_0, quantized(DType::kQ4_0, values));
  CHECK(positive[5] == 8);
  CHECK(positive[20] == -7);
  values[5] = -8;
  values[20] = 7;
  const auto negative = dequantized(DType::kQ4_0, quantized(DType::kQ4_0, values));
  CHECK(negative[5] == -8);
  CHECK(negative[20] == 7);
}

TEST_CASE("blocks: what a block holds comes back when quantized again") {
  // q8_0, q4_0 and q5_0 with a full-range code are fixed points: the scale is found again.
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0}) {
    CAPTURE(dtype_name(dtype));
    const std::vector<float> values = random_values(32 * 200, 11);
    const std::vector<float> once = dequantized(dtype, quantized(dtype, values));
    const std::vector<float> twice = dequantized(dtype, quantized(dtype, once));
    CHECK(worst_relative_error(once, twice) < 2e-3);
  }
}

TEST_CASE("blocks: zeros, denormals, infinities and NaN neither crash nor leave their block") {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : kBlockTypes) {
    CAPTURE(dtype_name(dtype));
    const std::vector<float> zeros(64, 0.0f);
    CHECK(dequantized(dtype, quantized(dtype, zeros)) == zeros);
    for (const float odd : {inf, -inf, nan, 1e-45f, -1e-40f, 3e38f, -3e38f}) {
      std::vector<float> values = random_values(96, 4);
      const Bytes clean = quantized(dtype, values);
      values[32 + 7] = odd;
      const Bytes blocks = quantized(dtype, values);
      const uint32_t bytes = dtype_block_bytes(dtype);
      CHECK(std::memcmp(blocks.data(), clean.data(), bytes) == 0);
      CHECK(std::memcmp(blocks.data() + 2 * bytes, clean.data() + 2 * bytes, bytes) == 0);
    }
    for (const float only : {inf, nan, 1e-45f}) {
      const std::vector<float> values(32, only);
      CHECK(quantized(dtype, values).size() == dtype_block_bytes(dtype));
    }
  }
}

TEST_CASE("Hadamard: the matrix is Sylvester's, orthonormal, and its own inverse") {
  for (const uint32_t block : {1u, 2u, 64u, 128u, 256u}) {
    CAPTURE(block);
    for (uint32_t column = 0; column < block; column += block / 8 + 1) {
      std::vector<float> unit(block, 0.0f);
      unit[column] = 1;
      rotate_hadamard(unit.data(), block, block);
      for (uint32_t row = 0; row < block; ++row) {
        const float sign = __builtin_parity(row & column) != 0 ? -1.0f : 1.0f;
        CHECK(unit[row] == doctest::Approx(sign / std::sqrt(static_cast<float>(block))));
      }
    }
    std::vector<float> values = random_values(size_t{block} * 3, 8);
    const std::vector<float> before = values;
    rotate_hadamard(values.data(), block * 3, block);
    double norm = 0, norm_before = 0;
    for (size_t i = 0; i < values.size(); ++i) norm += values[i] * values[i], norm_before += before[i] * before[i];
    CHECK(norm == doctest::Approx(norm_before));
    rotate_hadamard(values.data(), block * 3, block);
    for (size_t i = 0; i < values.size(); ++i) CHECK(std::fabs(values[i] - before[i]) < 1e-5f);
  }
}

TEST_CASE("Hadamard: a view undoes the rotation on reading and redoes it on writing, in every type") {
  constexpr uint32_t kTokens = 5, kHeads = 2, kDim = 128, kBlock = 64;
  const std::vector<float> values = random_values(size_t{kTokens} * kHeads * kDim, 21);
  for (const DType dtype : kAllTypes) {
    CAPTURE(dtype_name(dtype));
    MutableKvView view = make_row_view<std::byte>(nullptr, dtype, kTokens, kHeads, kDim);
    Bytes storage(view.packed_row_bytes() * kTokens);
    view.data = storage.data();
    view.hadamard_block = kBlock;
    store_values(view, 0, kTokens, values.data());
    std::vector<float> loaded(values.size());
    load_values(view, 0, kTokens, loaded.data());
    double error = 0, squares = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += (values[i] - loaded[i]) * (values[i] - loaded[i]);
      squares += values[i] * values[i];
    }
    const double tolerance = dtype == DType::kF32 ? 1e-6 : dtype_is_quantized(dtype) ? 0.12 : 3e-3;
    CHECK(std::sqrt(error / squares) < tolerance);
    // Without the rotation the stored values are the rotated ones.
    view.hadamard_block = 0;
    std::vector<float> stored(values.size()), rotated = values;
    load_values(view, 0, kTokens, stored.data());
    rotate_hadamard(rotated.data(), static_cast<uint32_t>(rotated.size()), kBlock);
    double stored_error = 0;
    for (size_t i = 0; i < values.size(); ++i) stored_error += (rotated[i] - stored[i]) * (rotated[i] - stored[i]);
    CHECK(std::sqrt(stored_error / squares) < tolerance);
  }
}
