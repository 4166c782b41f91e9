// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "codec/entropy_tables.h"
#include "codec/exponents.h"
#include "codec/kernels.h"

namespace kvpack {
namespace {

constexpr size_t kMostTables = 16;  // that a stream may have

bool is_table(const uint8_t* frequency) {
  return std::accumulate(frequency, frequency + 16, 0) == 256 && frequency[15] > 0;
}

// Puts them, as a decoder's steps leave them, behind the exponents.
void put_mantissas(const int16_t* symbols, size_t rows, uint8_t* __restrict tops) {
  for (size_t i = 0; i < rows * kLanes; ++i) {
    const int16_t index = static_cast<int16_t>(symbols[i] + kMaxSymbol);  // 15 stands for 7
    tops[i] = static_cast<uint8_t>(tops[i] << 3 | (index < 7 ? index : 7));
  }
}

}  // namespace

Status ExponentReader::read_tables(ByteReader& in) {
  KVPACK_ASSIGN_OR_RETURN(uint8_t count, in.read<uint8_t>("count of exponent tables"));
  if (count < 1 || count > kMostTables) return corrupt(fmt::format("{} exponent tables", count));
  std::array<uint8_t, 16> frequency;
  const auto read_table = [&]() -> Status {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan bytes, in.take(frequency.size(), "exponent table"));
    std::memcpy(frequency.data(), bytes.data(), bytes.size());
    if (!is_table(frequency.data())) return corrupt("the frequencies of an exponent table do not sum to 256");
    codes_.push_back(make_symbol_code(frequency.data()));
    return {};
  };
  codes_.clear();
  for (uint32_t t = 0; t < count; ++t) KVPACK_RETURN_IF_ERROR(read_table());
  KVPACK_ASSIGN_OR_RETURN(references_, in.take(channels_, "exponent references"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan nibbles, in.take((channels_ + 1) / 2, "exponent table numbers"));
  table_.clear();
  for (uint32_t c = 0; c < channels_; ++c) {
    const uint8_t table = (static_cast<uint8_t>(nibbles[c / 2]) >> (c % 2 * 4)) & 15;
    if (table >= count) return corrupt(fmt::format("exponent table {} of {}", table, count));
    table_.push_back(table);
  }
  if (mantissa_bits_ > 0) {
    KVPACK_RETURN_IF_ERROR(read_table());
    if (std::any_of(&frequency[7], &frequency[15], [](uint8_t f) { return f != 0; })) {
      return corrupt("a table of 3 bits has more than 8 values");
    }
  }
  mixed_.clear();
  for (const SymbolCode& code : codes_) mixed_.push_back(&code);
  return {};
}

Status ExponentReader::open(ByteSpan coded, int mantissa_bits, uint32_t tokens, uint32_t channels) {
  mantissa_bits_ = mantissa_bits;
  tokens_ = tokens;
  channels_ = channels;
  next_ = 0;
  ByteReader in(coded);
  KVPACK_RETURN_IF_ERROR(read_tables(in));
  KVPACK_ASSIGN_OR_RETURN(uint64_t escape_bytes, in.read_varint("escaped exponents' bytes"));
  KVPACK_ASSIGN_OR_RETURN(escapes_, in.take(escape_bytes, "escaped exponents"));
  next_escape_ = 0;
  KVPACK_ASSIGN_OR_RETURN(uint64_t first_bytes, in.read_varint("first stream's bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan first_stream, in.take(first_bytes, "first stream"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan second_stream, in.take(in.remaining(), "second stream"));
  const uint32_t state_lanes = std::min<uint32_t>(tokens, kLanes);
  KVPACK_RETURN_IF_ERROR(rans_[0].open(first_stream, state_lanes));
  KVPACK_RETURN_IF_ERROR(rans_[1].open(second_stream, state_lanes));
  depths_.resize(size_t{channels} * kLanes);
  mantissas_.resize(mantissa_bits == 0 ? 0 : depths_.size());
  last_lanes_ = lanes_of_group(tokens, (tokens - 1) / kLanes);
  return {};
}

void ExponentReader::fill_steps(bool partial) {
  for (auto& of_half : steps_) of_half.clear();
  for (uint32_t c = 0; c < channels_; ++c) {
    const auto add = [&](size_t code, int16_t* to) {
      steps_[c < channels_ / 2 ? 0 : 1].push_back({StepKind::kSymbol,
                                                   partial ? static_cast<const void*>(&mixed_[code]) : mixed_[code],
                                                   partial ? &last_lanes_ : nullptr, to});
    };
    add(table_[c], &depths_[size_t{c} * kLanes]);
    if (!mantissas_.empty()) add(codes_.size() - 1, &mantissas_[size_t{c} * kLanes]);
  }
}

Status ExponentReader::put_escapes(uint32_t lanes, uint8_t* exponents) {
  for (uint32_t c = 0; c < channels_; ++c) {
    const int16_t* depth = &depths_[size_t{c} * kLanes];
    int16_t largest = 0;
    for (int lane = 0; lane < kLanes; ++lane) largest = depth[lane] > largest ? depth[lane] : largest;
    if (largest != kEscapeSymbol) continue;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      if (depth[lane] != kEscapeSymbol) continue;
      if (next_escape_ == escapes_.size()) return corrupt("more escaped exponents than stored");
      exponents[size_t{c} * kLanes + lane] = static_cast<uint8_t>(escapes_[next_escape_++]);
    }
  }
  return {};
}

void ExponentReader::prepare_group() {
  lanes_ = std::min<uint32_t>(kLanes, tokens_ - next_);
  const bool partial = lanes_ < kLanes;
  if (next_ == 0 || partial) fill_steps(partial);
  next_ += lanes_;
}

Status ExponentReader::finish_group(bool escaped, uint8_t* tops) {
  for (uint32_t c = 0; c < channels_; ++c) {
    uint8_t exponents[kLanes];
    const int16_t* depth = &depths_[size_t{c} * kLanes];
    const uint8_t nearest = static_cast<uint8_t>(static_cast<uint8_t>(references_[c]) - kMaxSymbol);
    for (int lane = 0; lane < kLanes; ++lane) exponents[lane] = static_cast<uint8_t>(nearest - depth[lane]);
    std::memcpy(tops + size_t{c} * kLanes, exponents, sizeof exponents);
  }
  // Mantissas set the bit, too: 7 of them looks like an escape.
  if (escaped) KVPACK_RETURN_IF_ERROR(put_escapes(lanes_, tops));
  if (mantissa_bits_ > 0) put_mantissas(mantissas_.data(), channels_, tops);
  return {};
}

std::array<Status, kExponentReaders> ExponentReader::read_group_of(std::span<ExponentReader* const> readers,
                                                                   std::span<uint8_t* const> tops) {
  std::array<RansWork, kMostStreams> work;
  for (size_t r = 0; r < readers.size(); ++r) {
    readers[r]->prepare_group();
    for (size_t half = 0; half < 2; ++half) work[2 * r + half] = {&readers[r]->rans_[half], readers[r]->steps_[half]};
  }
  const uint32_t escaped = kernels().decode_together(std::span(work).first(2 * readers.size()));
  std::array<Status, kExponentReaders> status;
  for (size_t r = 0; r < readers.size(); ++r) {
    status[r] = readers[r]->finish_group(((escaped >> (2 * r)) & 3u) != 0, tops[r]);
  }
  return status;
}

Status ExponentReader::finish() const {
  KVPACK_RETURN_IF_ERROR(rans_[0].finish());
  KVPACK_RETURN_IF_ERROR(rans_[1].finish());
  if (next_escape_ != escapes_.size()) return corrupt("escaped exponents left over");
  return {};
}

}  // namespace kvpack
