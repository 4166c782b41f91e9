// SPDX-License-Identifier: Apache-2.0
// Weights of a GGUF read without ggml are what ggml reads: every type that is read, on random blocks.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <ggml.h>

#include <cmath>
#include <cstring>
#include <random>

#include "formats/gguf_tensor.h"
#include "formats/half.h"
#include "tests/must.h"

namespace kvpack::test {
namespace {

constexpr uint64_t kColumns = 512;
constexpr uint64_t kRows = 5;

// Random bytes whose halves are finite, so that every scale is a number.
Bytes random_rows(ggml_type type, uint64_t bytes) {
  std::mt19937 random(7 + static_cast<unsigned>(type));
  Bytes rows(bytes);
  for (std::byte& byte : rows) byte = static_cast<std::byte>(random());
  const auto step = type == GGML_TYPE_F32 ? sizeof(float) : sizeof(uint16_t);
  for (size_t i = 0; i + step <= bytes; i += step) {
    if (type == GGML_TYPE_F32) {
      const float value = static_cast<float>(random()) - 1e9f;
      std::memcpy(&rows[i], &value, sizeof value);
      continue;
    }
    uint16_t half;
    std::memcpy(&half, &rows[i], sizeof half);
    if (!std::isfinite(f16_to_f32(half))) half &= 0xfbffu;
    if (type == GGML_TYPE_BF16 && !std::isfinite(bf16_to_f32(half))) half &= 0xff7fu;
    std::memcpy(&rows[i], &half, sizeof half);
  }
  return rows;
}

TEST_CASE("weights of every type are widened as ggml widens them") {
  const ggml_type types[] = {GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q4_0,  GGML_TYPE_Q4_1,
                             GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q2_K,  GGML_TYPE_Q3_K,
                             GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_NL};
  for (const ggml_type type : types) {
    CAPTURE(std::string(ggml_type_name(type)));
    const uint64_t row_bytes = ggml_row_size(type, kColumns);
    const Bytes bytes = random_rows(type, kRows * row_bytes);
    Gguf gguf;
    gguf.tensors["w"] = {{kColumns, kRows}, static_cast<uint32_t>(type), 0, kColumns * kRows};
    MemorySource source(bytes, "weights");
    const GgufMatrix matrix = must(find_gguf_matrix(source, gguf, "w"));
    CHECK(matrix.row_bytes == row_bytes);
    const std::vector<float> found = must(read_gguf_rows(source, matrix, 1, kRows - 1));
    std::vector<float> expected(found.size());
    if (type == GGML_TYPE_F32) {
      std::memcpy(expected.data(), bytes.data() + row_bytes, expected.size() * sizeof(float));
    } else {
      ggml_get_type_traits(type)->to_float(bytes.data() + row_bytes, expected.data(),
                                           static_cast<int64_t>(expected.size()));
    }
    size_t different = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const float largest = std::max(std::fabs(found[i]), std::fabs(expected[i]));
      different += !(std::fabs(found[i] - expected[i]) <= 1e-5f * largest + 1e-12f);
    }
    CHECK(different == 0);
  }
}

TEST_CASE("types and shapes that are not read are refused") {
  const Bytes bytes(4096);
  MemorySource source(bytes, "weights");
  Gguf gguf;
  gguf.tensors["iq2"] = {{256, 4}, static_cast<uint32_t>(GGML_TYPE_IQ2_XXS), 0, 1024};
  gguf.tensors["odd"] = {{48, 4}, static_cast<uint32_t>(GGML_TYPE_Q8_0), 0, 192};
  gguf.tensors["experts"] = {{32, 4, 2}, static_cast<uint32_t>(GGML_TYPE_F32), 0, 256};
  gguf.tensors["long"] = {{32, 1000}, static_cast<uint32_t>(GGML_TYPE_F32), 0, 32000};
  check_error(find_gguf_matrix(source, gguf, "none"), ErrorKind::kUnsupported, "no tensor 'none'");
  check_error(find_gguf_matrix(source, gguf, "iq2"), ErrorKind::kUnsupported, "ggml type");
  check_error(find_gguf_matrix(source, gguf, "odd"), ErrorKind::kCorrupt, "rows of 48");
  check_error(find_gguf_matrix(source, gguf, "experts"), ErrorKind::kUnsupported, "3 dimensions");
  check_error(find_gguf_matrix(source, gguf, "long"), ErrorKind::kTruncated, "the file ends at 4096");
}

}  // namespace
}  // namespace kvpack::test
