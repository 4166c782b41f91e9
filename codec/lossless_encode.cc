// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "codec/byte_transpose.h"
#include "codec/exponents.h"
#include "codec/lossless.h"
#include "codec/rans.h"
#include "formats/checksum.h"
#include "formats/zstd_frame.h"

namespace kvpack {
namespace {

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

void split_blocks(ByteSpan rows, DType dtype, std::vector<Bytes>& planes) {
  const size_t block = dtype_block_bytes(dtype);
  const size_t scales = scale_bytes_of(dtype);
  planes.assign(2, {});
  for (size_t at = 0; at < rows.size(); at += block) {
    planes[0].insert(planes[0].end(), rows.begin() + at, rows.begin() + at + scales);
    planes[1].insert(planes[1].end(), rows.begin() + at + scales, rows.begin() + at + block);
  }
}

// Elements rotated left by one bit: their top bytes, and the bytes below, by plane.
template <typename Word>
void split_words_apart(const std::byte* elements, size_t count, uint8_t* __restrict tops, uint8_t* const* low) {
  for (size_t b = 0; b + 1 < sizeof(Word); ++b) {
    uint8_t* __restrict of_plane = low[b];
    for (size_t i = 0; i < count; ++i) {
      Word word;
      std::memcpy(&word, elements + i * sizeof word, sizeof word);
      word = std::rotl(word, 1);
      of_plane[i] = static_cast<uint8_t>(word >> (8 * b));
      tops[i] = static_cast<uint8_t>(word >> (8 * sizeof word - 8));
    }
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

Status write_plane(ByteSpan plane, bool try_noise, ByteWriter& out) {
  Bytes packed;
  if (try_noise || entropy_of(plane) < kNoiseBits) {
    KVPACK_ASSIGN_OR_RETURN(packed, zstd_compress(plane));
  }
  const bool smaller = !packed.empty() && packed.size() < plane.size();
  out.write_varint(smaller ? packed.size() : 0);
  out.write_bytes(smaller ? packed : plane);
  return {};
}

Status encode_planes(ByteSpan rows, DType dtype, ByteWriter& out) {
  std::vector<Bytes> planes;
  if (dtype_is_quantized(dtype)) {
    split_blocks(rows, dtype, planes);
  } else if (dtype == DType::kF32) {
    split_words<uint32_t>(rows, planes);
  } else {
    split_words<uint16_t>(rows, planes);
  }
  out.write<uint8_t>(kLosslessPlanes);
  for (const Bytes& plane : planes) KVPACK_RETURN_IF_ERROR(write_plane(plane, true, out));
  return {};
}

Status encode_modelled(ByteSpan rows, DType dtype, uint32_t tokens, uint32_t channels, ByteWriter& out) {
  const size_t element = dtype_block_bytes(dtype);
  const uint32_t groups = (tokens + kLanes - 1) / kLanes;
  const size_t values = size_t{tokens} * channels;
  // Kept from tile to tile, as fresh memory costs more than what is done with it.
  thread_local std::vector<uint8_t> tops;        // of a group, [token][channel]
  thread_local std::vector<uint8_t> by_channel;  // tops of all, [group][channel][32]
  thread_local std::vector<uint8_t> low;         // [plane][token][channel]
  tops.resize(size_t{kLanes} * channels);
  by_channel.resize(size_t{groups} * channels * kLanes);
  low.resize((element - 1) * values);
  for (uint32_t group = 0; group < groups; ++group) {
    const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
    const size_t first = size_t{group} * kLanes * channels;
    uint8_t* planes[3];
    for (size_t b = 0; b + 1 < element; ++b) planes[b] = &low[b * values + first];
    const auto split = dtype == DType::kF32 ? split_words_apart<uint32_t> : split_words_apart<uint16_t>;
    split(rows.data() + first * element, size_t{lanes} * channels, tops.data(), planes);
    transpose_bytes(tops.data(), lanes, channels, channels, &by_channel[first], kLanes);
  }
  const Bytes exponents = encode_exponents(by_channel, mantissa_bits_on_top(dtype), tokens, channels);
  out.reserve(exponents.size() + low.size() + 64);
  out.write<uint8_t>(kLosslessModelled);
  out.write_varint(exponents.size());
  out.write_bytes(exponents);
  const ByteSpan planes = std::as_bytes(std::span(low));
  for (size_t b = 0; b + 1 < element; ++b)
    KVPACK_RETURN_IF_ERROR(write_plane(planes.subspan(b * values, values), false, out));
  return {};
}

// Rows that are the same, byte for byte, as one before them.
struct Repeats {
  std::vector<uint32_t> unique;  // rows that are not
  std::vector<uint32_t> of;      // [row] index into unique
};

Repeats find_repeats(ByteSpan rows, size_t row_bytes) {
  const auto count = static_cast<uint32_t>(rows.size() / row_bytes);
  const auto row = [&](uint32_t i) { return rows.subspan(i * row_bytes, row_bytes); };
  Repeats repeats;
  std::vector<uint32_t> places(std::bit_ceil(2 * size_t{count}), UINT32_MAX);  // open addressing, into unique
  for (uint32_t i = 0; i < count; ++i) {
    size_t at = xxh3_64(row(i)) & (places.size() - 1);
    while (places[at] != UINT32_MAX &&
           std::memcmp(row(repeats.unique[places[at]]).data(), row(i).data(), row_bytes) != 0) {
      at = (at + 1) & (places.size() - 1);
    }
    if (places[at] == UINT32_MAX) {
      places[at] = static_cast<uint32_t>(repeats.unique.size());
      repeats.unique.push_back(i);
    }
    repeats.of.push_back(places[at]);
  }
  return repeats;
}

Status encode_unique(ByteSpan rows, DType dtype, uint32_t tokens, uint32_t channels, ByteWriter& out) {
  // Where tables and references would weigh more than they save, and for values that are much alike (zstd finds
  // repetitions, the model does not), the planes are tried.
  constexpr uint32_t kFewTokens = 64;
  constexpr double kMuchAlike = 0.6;
  if (dtype_is_quantized(dtype) || tokens == 0) return encode_planes(rows, dtype, out);
  const size_t before = out.size();
  KVPACK_RETURN_IF_ERROR(encode_modelled(rows, dtype, tokens, channels, out));
  const size_t modelled = out.size() - before;
  if (tokens >= kFewTokens && static_cast<double>(modelled) > kMuchAlike * static_cast<double>(rows.size())) return {};
  ByteWriter planes;
  KVPACK_RETURN_IF_ERROR(encode_planes(rows, dtype, planes));
  if (planes.size() < modelled) {
    out.cut(before);
    out.write_bytes(planes.bytes());
  }
  return {};
}

}  // namespace

Result<bool> encode_lossless(ByteSpan rows, DType dtype, uint32_t channels, ByteWriter& out) {
  constexpr uint32_t kWorthwhile = 16;  // one row of so many, to pay for naming them
  const size_t row_bytes = size_t{channels} / dtype_block_values(dtype) * dtype_block_bytes(dtype);
  const auto tokens = static_cast<uint32_t>(rows.size() / std::max<size_t>(1, row_bytes));
  const Repeats repeats = tokens == 0 ? Repeats{} : find_repeats(rows, row_bytes);
  const auto unique = static_cast<uint32_t>(repeats.unique.size());
  if (tokens == 0 || (tokens - unique) * kWorthwhile < tokens) {
    KVPACK_RETURN_IF_ERROR(encode_unique(rows, dtype, tokens, channels, out));
    return false;
  }
  Bytes of_unique(unique * row_bytes);
  for (uint32_t i = 0; i < unique; ++i) {
    std::memcpy(&of_unique[i * row_bytes], &rows[repeats.unique[i] * row_bytes], row_bytes);
  }
  out.write<uint8_t>(kLosslessRepeats);
  out.write_varint(unique);
  Bytes repeated((tokens + 7) / 8);  // a bit per row
  for (uint32_t i = 0; i < tokens; ++i) {
    if (repeats.unique[repeats.of[i]] != i) repeated[i / 8] |= static_cast<std::byte>(1u << (i % 8));
  }
  out.write_bytes(repeated);
  for (uint32_t i = 0; i < tokens; ++i) {
    if (repeats.unique[repeats.of[i]] != i) out.write_varint(repeats.of[i]);
  }
  KVPACK_RETURN_IF_ERROR(encode_unique(of_unique, dtype, unique, channels, out));
  return true;
}

}  // namespace kvpack
