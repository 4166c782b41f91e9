// SPDX-License-Identifier: Apache-2.0
#include "codec/lossless.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

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

}  // namespace

Result<Bytes> encode_lossless(ByteSpan rows, DType dtype) {
  std::vector<Bytes> planes;
  if (dtype_is_quantized(dtype)) {
    split_blocks(rows, dtype, planes);
  } else if (dtype == DType::kF32) {
    split_words<uint32_t>(rows, planes);
  } else {
    split_words<uint16_t>(rows, planes);
  }
  ByteWriter out;
  for (const Bytes& plane : planes) {
    KVPACK_ASSIGN_OR_RETURN(Bytes packed, zstd_compress(plane));
    const bool smaller = packed.size() < plane.size();
    out.write_varint(smaller ? packed.size() : 0);
    out.write_bytes(smaller ? packed : plane);
  }
  return out.take();
}

Status decode_lossless(ByteReader& in, DType dtype, MutableByteSpan rows) {
  std::vector<Bytes> planes;
  for (const size_t plane_bytes : plane_sizes(rows.size(), dtype)) {
    KVPACK_ASSIGN_OR_RETURN(uint64_t stored, in.read_varint("byte plane size"));
    KVPACK_ASSIGN_OR_RETURN(ByteSpan raw, in.take(stored == 0 ? plane_bytes : stored, "byte plane"));
    if (stored == 0) {
      planes.emplace_back(raw.begin(), raw.end());
      continue;
    }
    KVPACK_ASSIGN_OR_RETURN(Bytes plane, zstd_decompress(raw, plane_bytes));
    planes.push_back(std::move(plane));
  }
  if (!in.at_end()) return corrupt(fmt::format("{} bytes after the byte planes", in.remaining()));
  if (dtype_is_quantized(dtype)) {
    join_blocks(planes, dtype, rows);
  } else if (dtype == DType::kF32) {
    join_words<uint32_t>(planes, rows);
  } else {
    join_words<uint16_t>(planes, rows);
  }
  return {};
}

}  // namespace kvpack
