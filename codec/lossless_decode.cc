// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <deque>

#include "codec/byte_transpose.h"
#include "codec/lossless.h"
#include "formats/zstd_frame.h"

namespace kvpack {
namespace {

template <typename Word>
void join_words(const std::vector<ByteSpan>& planes, MutableByteSpan rows) {
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

void join_blocks(const std::vector<ByteSpan>& planes, DType dtype, MutableByteSpan rows) {
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

void join_words_again(const uint8_t* tops, const uint8_t* const* low, size_t count, uint16_t* __restrict words) {
  const uint8_t* of_plane = low[0];
  for (size_t i = 0; i < count; ++i) {
    const uint32_t word = static_cast<uint32_t>(tops[i]) << 8 | of_plane[i];
    words[i] = static_cast<uint16_t>(word >> 1 | word << 15);
  }
}
void join_words_again(const uint8_t* tops, const uint8_t* const* low, size_t count, uint32_t* __restrict words) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t word = static_cast<uint32_t>(tops[i]) << 24 | static_cast<uint32_t>(low[2][i]) << 16 |
                          static_cast<uint32_t>(low[1][i]) << 8 | low[0][i];
    words[i] = word >> 1 | word << 31;
  }
}

// A plane where it lies in the input, or unpacked into `room`.
Result<ByteSpan> read_plane(ByteReader& in, uint64_t plane_bytes, Bytes& room) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t stored, in.read_varint("byte plane size"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan raw, in.take(stored == 0 ? plane_bytes : stored, "byte plane"));
  if (stored == 0) return raw;
  KVPACK_ASSIGN_OR_RETURN(room, zstd_decompress(raw, plane_bytes));
  return ByteSpan(room);
}

Status decode_planes(ByteReader& in, DType dtype, MutableByteSpan rows) {
  std::vector<ByteSpan> planes;
  std::deque<Bytes> room;
  for (const size_t plane_bytes : plane_sizes(rows.size(), dtype)) {
    KVPACK_ASSIGN_OR_RETURN(const ByteSpan plane, read_plane(in, plane_bytes, room.emplace_back()));
    planes.push_back(plane);
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

}  // namespace

Status LosslessReader::open(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows) {
  dtype_ = dtype;
  channels_ = channels;
  rows_ = into_ = rows;
  source_.clear();
  next_ = tokens_ = 0;
  KVPACK_ASSIGN_OR_RETURN(uint8_t coding, in.read<uint8_t>("lossless coding"));
  if (coding == kLosslessRepeats) {
    KVPACK_RETURN_IF_ERROR(read_repeats(in));
    KVPACK_ASSIGN_OR_RETURN(coding, in.read<uint8_t>("lossless coding"));
    if (coding == kLosslessRepeats) return corrupt("repeated rows of repeated rows");
  }
  if (coding > kLosslessRepeats) return corrupt(fmt::format("lossless coding {}", coding));
  KVPACK_RETURN_IF_ERROR(coding == kLosslessPlanes ? decode_planes(in, dtype, into_) : open_modelled(in));
  if (!in.at_end()) return corrupt(fmt::format("{} bytes after the byte planes", in.remaining()));
  return {};
}

// Which rows are like which, and room for those that are like none before.
Status LosslessReader::read_repeats(ByteReader& in) {
  const size_t row_bytes = size_t{channels_} / dtype_block_values(dtype_) * dtype_block_bytes(dtype_);
  const auto all = static_cast<uint32_t>(rows_.size() / std::max<size_t>(1, row_bytes));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t unique, in.read_varint("rows that do not repeat"));
  if (unique == 0 || unique >= all) return corrupt(fmt::format("{} of {} rows do not repeat", unique, all));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan repeated, in.take((all + 7) / 8, "repeated rows"));
  uint32_t before = 0;
  for (uint32_t i = 0; i < all; ++i) {
    const bool repeats = ((static_cast<uint8_t>(repeated[i / 8]) >> (i % 8)) & 1) != 0;
    if (!repeats) {
      source_.push_back(before++);
      continue;
    }
    KVPACK_ASSIGN_OR_RETURN(const uint64_t source, in.read_varint("a repeated row"));
    if (source >= before) return corrupt(fmt::format("row {} repeats row {} of {}", i, source, before));
    source_.push_back(static_cast<uint32_t>(source));
  }
  if (before != unique) return corrupt(fmt::format("{} rows do not repeat, {} were announced", before, unique));
  unique_.resize(before * row_bytes);
  into_ = unique_;
  return {};
}

Status LosslessReader::open_modelled(ByteReader& in) {
  const size_t element = dtype_block_bytes(dtype_);
  if (dtype_is_quantized(dtype_)) return corrupt("modelled exponents of quantized values");
  if (into_.empty()) return corrupt("modelled exponents of no values");
  const size_t row_bytes = size_t{channels_} * element;
  assert(into_.size() % row_bytes == 0);
  tokens_ = static_cast<uint32_t>(into_.size() / row_bytes);
  KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("exponents' bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan coded, in.take(bytes, "exponents"));
  KVPACK_RETURN_IF_ERROR(exponents_.open(coded, mantissa_bits_on_top(dtype_), tokens_, channels_));
  for (size_t b = 0; b + 1 < element; ++b) {
    KVPACK_ASSIGN_OR_RETURN(planes_[b], read_plane(in, size_t{tokens_} * channels_, room_[b]));
  }
  by_channel_.resize(size_t{kLanes} * channels_);
  tops_.resize(by_channel_.size());
  words_.resize(by_channel_.size());
  return {};
}

void LosslessReader::join_group() {
  const size_t element = dtype_block_bytes(dtype_);
  const uint32_t lanes = std::min<uint32_t>(kLanes, tokens_ - next_);
  transpose_bytes(by_channel_.data(), channels_, lanes, kLanes, tops_.data(), channels_);
  const size_t at = size_t{next_} * channels_;
  const uint8_t* low[3] = {};
  for (size_t b = 0; b + 1 < element; ++b) low[b] = reinterpret_cast<const uint8_t*>(planes_[b].data()) + at;
  const size_t count = size_t{lanes} * channels_;
  if (dtype_ == DType::kF32) {
    join_words_again(tops_.data(), low, count, words_.data());
  } else {
    join_words_again(tops_.data(), low, count, reinterpret_cast<uint16_t*>(words_.data()));
  }
  std::memcpy(into_.data() + at * element, words_.data(), count * element);
  next_ += lanes;
}

void LosslessReader::read_groups(std::span<LosslessReader* const> readers, std::span<Status> status) {
  for (;;) {
    std::array<ExponentReader*, kExponentReaders> exponents;
    std::array<uint8_t*, kExponentReaders> tops;
    std::array<size_t, kExponentReaders> reader_of;
    size_t count = 0;
    for (size_t r = 0; r < readers.size() && count < kExponentReaders; ++r) {
      if (!status[r].ok() || readers[r]->next_ == readers[r]->tokens_) continue;
      exponents[count] = &readers[r]->exponents_;
      tops[count] = readers[r]->by_channel_.data();
      reader_of[count++] = r;
    }
    if (count == 0) return;
    auto read = ExponentReader::read_group_of(std::span(exponents).first(count), tops);
    for (size_t i = 0; i < count; ++i) {
      status[reader_of[i]] = std::move(read[i]);
      if (status[reader_of[i]].ok()) readers[reader_of[i]]->join_group();
    }
  }
}

Status LosslessReader::finish() {
  if (tokens_ > 0) KVPACK_RETURN_IF_ERROR(exponents_.finish());
  if (source_.empty()) return {};
  const size_t row_bytes = rows_.size() / source_.size();
  for (size_t i = 0; i < source_.size(); ++i) {
    std::memcpy(&rows_[i * row_bytes], &unique_[source_[i] * row_bytes], row_bytes);
  }
  return {};
}

Status decode_lossless(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows) {
  thread_local LosslessReader reader;
  KVPACK_RETURN_IF_ERROR(reader.open(in, dtype, channels, rows));
  LosslessReader* const readers[] = {&reader};
  Status status;
  LosslessReader::read_groups(readers, {&status, 1});
  KVPACK_RETURN_IF_ERROR(std::move(status));
  return reader.finish();
}

}  // namespace kvpack
