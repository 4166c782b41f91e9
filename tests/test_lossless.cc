// SPDX-License-Identifier: Apache-2.0
// Lossless rows: what repeats, what is modelled from a sample, and bytes that no encoder wrote.
#include "codec/lossless.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "formats/archive.h"
#include "tests/must.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

constexpr uint32_t kChannels = 64;

size_t row_bytes_of(DType dtype) { return kChannels / dtype_block_values(dtype) * dtype_block_bytes(dtype); }

// Bytes that look like values: noise below, few exponents above.
Bytes random_rows(DType dtype, uint32_t rows, std::mt19937& random) {
  Bytes bytes(rows * row_bytes_of(dtype));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  if (dtype_is_quantized(dtype)) return bytes;
  const size_t element = dtype_block_bytes(dtype);
  for (size_t i = element - 1; i < bytes.size(); i += element) {
    bytes[i] = static_cast<std::byte>(0x38 + (random() & 3) + ((random() & 1) << 7));
  }
  return bytes;
}

struct Coded {
  Bytes bytes;
  bool repeats = false;
};

Coded coded(ByteSpan rows, DType dtype) {
  ByteWriter out;
  const bool repeats = must(encode_lossless(rows, dtype, kChannels, out));
  return {out.take(), repeats};
}

Status decode(ByteSpan bytes, DType dtype, MutableByteSpan rows) {
  ByteReader in(bytes);
  return decode_lossless(in, dtype, kChannels, rows);
}

Bytes decoded(ByteSpan bytes, DType dtype, size_t size) {
  Bytes rows(size);
  must(decode(bytes, dtype, rows));
  return rows;
}

}  // namespace

TEST_CASE("rows that repeat are named, for every type, and come back") {
  std::mt19937 random(3);
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32, DType::kQ8_0, DType::kQ4_1}) {
    for (const uint32_t rows : {2u, 33u, 256u, 300u}) {
      CAPTURE(rows);
      Bytes bytes = random_rows(dtype, rows, random);
      const size_t row = row_bytes_of(dtype);
      const Coded without = coded(bytes, dtype);
      CHECK_FALSE(without.repeats);
      CHECK(decoded(without.bytes, dtype, bytes.size()) == bytes);
      for (uint32_t i = 1; i < rows; ++i) {
        if (random() % 2 == 0 || rows == 2) std::memcpy(&bytes[i * row], &bytes[(random() % i) * row], row);
      }
      const Coded with = coded(bytes, dtype);
      CHECK(with.repeats);
      CHECK(decoded(with.bytes, dtype, bytes.size()) == bytes);
      if (rows > 2) CHECK(with.bytes.size() < without.bytes.size() * 3 / 4);
    }
  }
}

TEST_CASE("one row over and over") {
  std::mt19937 random(4);
  const Bytes row = random_rows(DType::kF16, 1, random);
  Bytes bytes;
  for (int i = 0; i < 256; ++i) bytes.insert(bytes.end(), row.begin(), row.end());
  const Coded all_alike = coded(bytes, DType::kF16);
  CHECK(all_alike.repeats);
  CHECK(all_alike.bytes.size() < 600);
  CHECK(decoded(all_alike.bytes, DType::kF16, bytes.size()) == bytes);
}

// Tables are fitted to every other group of 32 tokens: what only the others hold must come back all the same.
TEST_CASE("exponents that no sample saw are escapes") {
  std::mt19937 random(5);
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    Bytes bytes = random_rows(dtype, 256, random);
    const size_t row = row_bytes_of(dtype);
    const size_t element = dtype_block_bytes(dtype);
    for (uint32_t token = 32; token < 64; ++token) {
      for (uint32_t c = 0; c < kChannels; ++c) {
        bytes[token * row + c * element + element - 1] = static_cast<std::byte>(random());
      }
    }
    const Coded odd = coded(bytes, dtype);
    CHECK(decoded(odd.bytes, dtype, bytes.size()) == bytes);
  }
}

TEST_CASE("hostile lossless rows: what repeats nothing, itself, or repeats") {
  std::mt19937 random(6);
  Bytes bytes = random_rows(DType::kF16, 40, random);
  const size_t row = row_bytes_of(DType::kF16);
  for (uint32_t i = 20; i < 40; ++i) std::memcpy(&bytes[i * row], &bytes[(i - 20) * row], row);
  const Coded good = coded(bytes, DType::kF16);
  REQUIRE(good.repeats);
  // u8 2, varint 20, 5 bytes of bits, 20 numbers, u8 coding
  REQUIRE(good.bytes[0] == std::byte{kLosslessRepeats});
  REQUIRE(good.bytes[1] == std::byte{20});
  Bytes rows(bytes.size());
  const auto refused = [&](size_t at, int value, const char* said) {
    Bytes changed = good.bytes;
    changed[at] = static_cast<std::byte>(value);
    const Status status = decode(changed, DType::kF16, rows);
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().kind == ErrorKind::kCorrupt);
    CHECK(status.error().message.find(said) != std::string::npos);
  };
  refused(1, 0, "0 of 40 rows do not repeat");
  refused(1, 40, "40 of 40 rows do not repeat");
  refused(1, 21, "20 rows do not repeat, 21 were announced");
  refused(2, 1, "row 0 repeats row");
  refused(7, 20, "repeats row 20 of 20");
  refused(27, kLosslessRepeats, "repeated rows of repeated rows");
  refused(27, 3, "lossless coding 3");
  for (size_t length = 0; length < good.bytes.size(); ++length) {
    CHECK_FALSE(decode(ByteSpan(good.bytes).first(length), DType::kF16, rows).ok());
  }
  for (int trial = 0; trial < 3000; ++trial) {
    Bytes changed = good.bytes;
    changed[random() % std::min<size_t>(changed.size(), trial % 2 ? 40 : changed.size())] =
        static_cast<std::byte>(random());
    (void)decode(changed, DType::kF16, rows);
  }
}
