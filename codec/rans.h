// SPDX-License-Identifier: Apache-2.0
// Interleaved range ANS (Duda 2013, arXiv 1311.2540; byte renormalisation as in Giesen's ryg_rans), 32 lanes.
//
// Three things surprise: the encoder runs backwards over the symbols; the state is 16 bits, in [2^8, 2^16), and with
// probabilities in 1/256 renormalisation moves at most one byte; the final states must be exactly 2^8 again, which is a
// free check of the stream.
//
//   stream = u16 state[lanes], then bytes in the order in which the decoder needs them
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kRansLow = 1u << 8;

class RansEncoder {
 public:
  // Symbols in decoding order: an interval [start, start + frequency) of 256, on one lane.
  void put(int lane, uint32_t start, uint32_t frequency) {
    ops_.push_back({static_cast<uint8_t>(lane), static_cast<uint8_t>(start), static_cast<uint16_t>(frequency)});
  }
  bool empty() const { return ops_.empty(); }
  // The stream for `lanes` lanes; clears the encoder.
  Bytes finish(int lanes);

 private:
  struct Op {
    uint8_t lane;
    uint8_t start;
    uint16_t frequency;
  };
  std::vector<Op> ops_;
};

class RansDecoder {
 public:
  static Result<RansDecoder> open(ByteSpan stream, int lanes);

  // The slot 0..255 that the next symbol of this lane falls into.
  uint32_t slot(int lane) const { return state_[lane] & 0xffu; }
  // Consumes the symbol whose interval holds the slot.
  void advance(int lane, uint32_t start, uint32_t frequency) {
    uint32_t state = frequency * (state_[lane] >> 8) + (state_[lane] & 0xffu) - start;
    if (state < kRansLow) {
      // Past the end zeros are fed; finish() reports it.
      state = (state << 8) | (next_ < stream_.size() ? static_cast<uint32_t>(stream_[next_]) : 0u);
      ++next_;
    }
    state_[lane] = static_cast<uint16_t>(state);
  }
  // Corrupt unless every byte was used and every state is back at 2^8.
  Status finish() const;

 private:
  ByteSpan stream_;
  size_t next_ = 0;
  int lanes_ = 0;
  std::array<uint16_t, kLanes> state_{};
};

}  // namespace kvpack
