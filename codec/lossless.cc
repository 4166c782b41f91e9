// SPDX-License-Identifier: Apache-2.0
#include "codec/lossless.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

#include "codec/exponents.h"
#include "codec/rans.h"
#include "formats/zstd_frame.h"

namespace kvpack {
namespace {

// Bytes at the front of a quantized block that are scales: f16 d, and for the *_1 types f16 m.
uint32_t scale_bytes_of(DType dtype) { return dtype == DType::kQ4_1 || dtype == DType::kQ5_1 ? 4 : 2; }

template <typename Word>
void split_words(ByteSpan rows, std::vector<Bytes>& planes) {
  const size_t count = rows.size() / sizeof(Word);
  planes.assign(sizeof(Word), Bytes(count));
  for (size_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, rows.data() + i * sizeof(Word), sizeof(Word));
    word = std::rotl(word, 1);
    for (size_t b = 0; b < sizeof(Word); ++b) planes[b][i] = static_cast<std::byte>(word >> (8 * b));
  }
}

template <typename Word>
void join_words(const std::vector<Bytes>& planes, MutableByteSpan rows) {
  const size_t count = rows.size() / sizeof(Word);
  for (size_t i = 0; i < count; ++i) {
    Word word = 0;
    for (size_t b = 0; b < sizeof(Word); ++b) {
      word = static_cast<Word>(word | static_cast<Word>(static_cast<Word>(planes[b][i]) << (8 * b)));
    }
    word = std::rotr(word, 1);
    std::memcpy(rows.data() + i * sizeof(Word), &word, sizeof(Word));
  }
}

void split_blocks(ByteSpan rows, DType dtype, std::vector<Bytes>& planes) {
  const size_t block = dtype_block_bytes(dtype);
  const size_t scales = scale_bytes_of(dtype);
  planes.assign(2, {});
  for (size_t at = 0; at < rows.size(); at += block) {
    planes[0].insert(planes[0].end(), rows.begin() + at, rows.begin() + at + scales);
    planes[1].insert(planes[1].end(), rows.begin() + at + scales, rows.begin() + at + block);
  }
}

void join_blocks(const std::vector<Bytes>& planes, DType dtype, MutableByteSpan rows) {
  const size_t block = dtype_block_bytes(dtype);
  const size_t scales = scale_bytes_of(dtype);
  for (size_t n = 0; n * block < rows.size(); ++n) {
    std::memcpy(rows.data() + n * block, planes[0].data() + n * scales, scales);
    std::memcpy(rows.data() + n * block + scales, planes[1].data() + n * (block - scales), block - scales);
  }
}

std::vector<size_t> plane_sizes(size_t bytes, DType dtype) {
  const size_t block = dtype_block_bytes(dtype);
  if (!dtype_is_quantized(dtype)) return std::vector<size_t>(block, bytes / block);
  const size_t scales = scale_bytes_of(dtype);
  return {bytes / block * scales, bytes / block * (block - scales)};
}

enum : uint8_t { kPlanesOnly = 0, kModelledExponents = 1 };

int mantissa_bits_on_top(DType dtype) { return dtype == DType::kF16 ? 3 : 0; }

// 16 rows of 16 bytes, transposed in place: interleaving row i with row i + 8 four times turns the matrix over.
void transpose_16x16(uint8_t (&rows)[16][16]) {
  using Row = uint8_t __attribute__((vector_size(16)));
  Row a[16], b[16];
  std::memcpy(a, rows, sizeof a);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      b[2 * i + 1] =
          __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(a, b, sizeof a);
  }
  std::memcpy(rows, a, sizeof a);
}

// [row][column] of `height` rows, `from_stride` bytes apart, to [column][row], `to_stride` bytes apart.
void transpose_bytes(const uint8_t* from, size_t height, size_t width, size_t from_stride, uint8_t* to,
                     size_t to_stride) {
  const size_t whole_height = height / 16 * 16;
  const size_t whole_width = width / 16 * 16;
  for (size_t y = 0; y < whole_height; y += 16) {
    for (size_t x = 0; x < whole_width; x += 16) {
      uint8_t rows[16][16];
      for (size_t i = 0; i < 16; ++i) std::memcpy(rows[i], from + (y + i) * from_stride + x, 16);
      transpose_16x16(rows);
      for (size_t i = 0; i < 16; ++i) std::memcpy(to + (x + i) * to_stride + y, rows[i], 16);
    }
  }
  for (size_t y = 0; y < height; ++y) {
    for (size_t x = y < whole_height ? whole_width : 0; x < width; ++x)
      to[x * to_stride + y] = from[y * from_stride + x];
  }
}

// Rows rotated left by one bit: their top bytes, and the bytes below by plane, in the order of the rows.
template <typename Word>
void split_words_apart(ByteSpan rows, std::vector<uint8_t>& tops, std::vector<Bytes>& low) {
  const size_t count = rows.size() / sizeof(Word);
  tops.resize(count);
  low.assign(sizeof(Word) - 1, Bytes(count));
  for (size_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, rows.data() + i * sizeof word, sizeof word);
    word = std::rotl(word, 1);
    tops[i] = static_cast<uint8_t>(word >> (8 * sizeof word - 8));
    for (size_t b = 0; b + 1 < sizeof word; ++b) low[b][i] = static_cast<std::byte>(word >> (8 * b));
  }
}

template <typename Word>
void join_words_again(const std::vector<uint8_t>& tops, const std::vector<Bytes>& low, MutableByteSpan rows) {
  for (size_t i = 0; i < tops.size(); ++i) {
    Word word = static_cast<Word>(static_cast<Word>(tops[i]) << (8 * sizeof word - 8));
    for (size_t b = 0; b + 1 < sizeof word; ++b) {
      word = static_cast<Word>(word | static_cast<Word>(static_cast<Word>(low[b][i]) << (8 * b)));
    }
    word = std::rotr(word, 1);
    std::memcpy(rows.data() + i * sizeof word, &word, sizeof word);
  }
}

// Order-0 entropy of a sample of the bytes, in bits per byte.
double entropy_of(ByteSpan bytes) {
  constexpr size_t kSampleEvery = 5;  // no divisor of any head_dim that is a power of two
  std::array<uint32_t, 256> counts{};
  for (size_t i = 0; i < bytes.size(); i += kSampleEvery) ++counts[static_cast<uint8_t>(bytes[i])];
  double bits = 0;
  const double total = static_cast<double>((bytes.size() + kSampleEvery - 1) / kSampleEvery);
  for (const uint32_t n : counts) {
    if (n > 0) bits += n * std::log2(total / n);
  }
  return bits / std::max(1.0, total);
}

// Bytes like these are noise: mantissas. Trying to compress them would take longer than all else.
constexpr double kNoiseBits = 7.85;

Status write_plane(const Bytes& plane, bool try_noise, ByteWriter& out) {
  Bytes packed;
  if (try_noise || entropy_of(plane) < kNoiseBits) {
    KVPACK_ASSIGN_OR_RETURN(packed, zstd_compress(plane));
  }
  const bool smaller = !packed.empty() && packed.size() < plane.size();
  out.write_varint(smaller ? packed.size() : 0);
  out.write_bytes(smaller ? packed : plane);
  return {};
}

Result<Bytes> read_plane(ByteReader& in, uint64_t plane_bytes) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t stored, in.read_varint("byte plane size"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan raw, in.take(stored == 0 ? plane_bytes : stored, "byte plane"));
  if (stored == 0) return Bytes(raw.begin(), raw.end());
  return zstd_decompress(raw, plane_bytes);
}

Result<Bytes> encode_planes(ByteSpan rows, DType dtype) {
  std::vector<Bytes> planes;
  if (dtype_is_quantized(dtype)) {
    split_blocks(rows, dtype, planes);
  } else if (dtype == DType::kF32) {
    split_words<uint32_t>(rows, planes);
  } else {
    split_words<uint16_t>(rows, planes);
  }
  ByteWriter out;
  out.write<uint8_t>(kPlanesOnly);
  for (const Bytes& plane : planes) KVPACK_RETURN_IF_ERROR(write_plane(plane, true, out));
  return out.take();
}

Status decode_planes(ByteReader& in, DType dtype, MutableByteSpan rows) {
  std::vector<Bytes> planes;
  for (const size_t plane_bytes : plane_sizes(rows.size(), dtype)) {
    KVPACK_ASSIGN_OR_RETURN(Bytes plane, read_plane(in, plane_bytes));
    planes.push_back(std::move(plane));
  }
  if (dtype_is_quantized(dtype)) {
    join_blocks(planes, dtype, rows);
  } else if (dtype == DType::kF32) {
    join_words<uint32_t>(planes, rows);
  } else {
    join_words<uint16_t>(planes, rows);
  }
  return {};
}

Result<Bytes> encode_modelled(ByteSpan rows, DType dtype, uint32_t tokens, uint32_t channels) {
  std::vector<uint8_t> tops;  // [token][channel]
  std::vector<Bytes> low;
  if (dtype == DType::kF32) {
    split_words_apart<uint32_t>(rows, tops, low);
  } else {
    split_words_apart<uint16_t>(rows, tops, low);
  }
  const uint32_t groups = (tokens + kLanes - 1) / kLanes;
  std::vector<uint8_t> by_channel(size_t{groups} * channels * kLanes);
  for (uint32_t group = 0; group < groups; ++group) {
    const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
    transpose_bytes(&tops[size_t{group} * kLanes * channels], lanes, channels, channels,
                    &by_channel[size_t{group} * channels * kLanes], kLanes);
  }
  ByteWriter out;
  out.write<uint8_t>(kModelledExponents);
  const Bytes exponents = encode_exponents(by_channel, mantissa_bits_on_top(dtype), tokens, channels);
  out.write_varint(exponents.size());
  out.write_bytes(exponents);
  for (const Bytes& plane : low) KVPACK_RETURN_IF_ERROR(write_plane(plane, false, out));
  return out.take();
}

Status decode_modelled(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows) {
  const size_t row_bytes = size_t{channels} * dtype_block_bytes(dtype);
  if (dtype_is_quantized(dtype)) return corrupt("modelled exponents of quantized values");
  assert(rows.size() % row_bytes == 0);
  const uint32_t tokens = static_cast<uint32_t>(rows.size() / row_bytes);
  const uint32_t groups = (tokens + kLanes - 1) / kLanes;
  std::vector<uint8_t> by_channel(size_t{groups} * channels * kLanes);
  KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("exponents' bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan coded, in.take(bytes, "exponents"));
  ByteReader exponents(coded);
  KVPACK_RETURN_IF_ERROR(decode_exponents(exponents, mantissa_bits_on_top(dtype), tokens, channels, by_channel));
  std::vector<uint8_t> tops(size_t{tokens} * channels);
  for (uint32_t group = 0; group < groups; ++group) {
    const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
    transpose_bytes(&by_channel[size_t{group} * channels * kLanes], channels, lanes, kLanes,
                    &tops[size_t{group} * kLanes * channels], channels);
  }
  std::vector<Bytes> low;
  for (size_t b = 0; b + 1 < dtype_block_bytes(dtype); ++b) {
    KVPACK_ASSIGN_OR_RETURN(Bytes plane, read_plane(in, tops.size()));
    low.push_back(std::move(plane));
  }
  if (dtype == DType::kF32) {
    join_words_again<uint32_t>(tops, low, rows);
  } else {
    join_words_again<uint16_t>(tops, low, rows);
  }
  return {};
}

}  // namespace

Result<Bytes> encode_lossless(ByteSpan rows, DType dtype, uint32_t channels) {
  const size_t row_bytes = size_t{channels} / dtype_block_values(dtype) * dtype_block_bytes(dtype);
  // Where tables and references would weigh more than they save, and for values that are much alike (zstd finds
  // repetitions, the model does not), the planes are tried.
  constexpr uint32_t kFewTokens = 64;
  constexpr double kMuchAlike = 0.6;
  const uint32_t tokens = static_cast<uint32_t>(rows.size() / std::max<size_t>(1, row_bytes));
  if (dtype_is_quantized(dtype) || tokens == 0) return encode_planes(rows, dtype);
  KVPACK_ASSIGN_OR_RETURN(Bytes modelled, encode_modelled(rows, dtype, tokens, channels));
  if (tokens >= kFewTokens && static_cast<double>(modelled.size()) > kMuchAlike * static_cast<double>(rows.size())) {
    return modelled;
  }
  KVPACK_ASSIGN_OR_RETURN(Bytes planes, encode_planes(rows, dtype));
  return planes.size() < modelled.size() ? planes : modelled;
}

Status decode_lossless(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows) {
  KVPACK_ASSIGN_OR_RETURN(uint8_t coding, in.read<uint8_t>("lossless coding"));
  if (coding > kModelledExponents) return corrupt(fmt::format("lossless coding {}", coding));
  if (coding == kPlanesOnly) {
    KVPACK_RETURN_IF_ERROR(decode_planes(in, dtype, rows));
  } else {
    KVPACK_RETURN_IF_ERROR(decode_modelled(in, dtype, channels, rows));
  }
  if (!in.at_end()) return corrupt(fmt::format("{} bytes after the byte planes", in.remaining()));
  return {};
}

}  // namespace kvpack
