// SPDX-License-Identifier: Apache-2.0
// Exponents of floating-point values [token][channel], entropy coded with the steps of rans.h: a channel's exponents
// lie few octaves below its largest, and how far is much alike in many channels.
//
//   u8 tables            1..16
//   u8 frequency[tables][16], of depth 0..14 below the channel's reference, then of escapes; sums of 256
//   u8 reference[channel]
//   u8 table of two channels, the first in the low nibble
//   f16 only: u8 frequency[16] of the mantissa's top 3 bits, 7 coded as index 15
//   varint bytes, escaped exponents, u8 each, in coding order: groups of 32 tokens, channels, lanes
//   varint bytes, rANS stream of the channels' first half; the rest of the input is the second half's. Each codes by
//   group and channel: 32 tokens' depths, then (f16) their mantissas' top bits
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/rans.h"
#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

// Values' top bytes by group of 32 tokens, channel, lane (a last group's lanes beyond `tokens` are unused): exponents,
// over `mantissa_bits` (0, or f16's 3) bits of mantissa.
Bytes encode_exponents(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens, uint32_t channels);

// That may be read together.
inline constexpr size_t kExponentReaders = kMostStreams / 2;

// The lanes that a group of 32 tokens has.
inline LaneRuns lanes_of_group(uint32_t tokens, uint32_t group) {
  const uint32_t lanes = tokens - group * kLanes;
  LaneRuns runs;
  runs.count = 1;
  runs.mask[0] = lanes >= kLanes ? kAllLanes : (1u << lanes) - 1;
  return runs;
}

class ExponentReader {
 public:
  // `coded` must outlive the reading of all groups; tokens > 0.
  Status open(ByteSpan coded, int mantissa_bits, uint32_t tokens, uint32_t channels);
  // The next group's top bytes [channel][32] of each reader, their streams in lockstep.
  static std::array<Status, kExponentReaders> read_group_of(std::span<ExponentReader* const> readers,
                                                            std::span<uint8_t* const> tops);
  // Corrupt unless everything was used.
  Status finish() const;

 private:
  Status read_tables(ByteReader& in);
  void fill_steps(bool partial);
  // The steps of the next group.
  void prepare_group();
  // What they read, put together.
  Status finish_group(bool escaped, uint8_t* tops);
  Status put_escapes(uint32_t lanes, uint8_t* exponents);

  int mantissa_bits_ = 0;
  uint32_t tokens_ = 0;
  uint32_t channels_ = 0;
  uint32_t next_ = 0;   // token
  uint32_t lanes_ = 0;  // of the current group
  ByteSpan references_;
  std::vector<uint8_t> table_;      // [channel]
  std::vector<SymbolCode> codes_;   // by table, the mantissas' last
  std::vector<const void*> mixed_;  // the same, for a partial group: one run each
  LaneRuns last_lanes_;
  ByteSpan escapes_;
  size_t next_escape_ = 0;
  std::array<RansReader, 2> rans_;
  std::array<std::vector<RansStep>, 2> steps_;
  std::vector<int16_t> depths_;  // [channel][32] of the group, as steps leave them
  std::vector<int16_t> mantissas_;
};

}  // namespace kvpack
