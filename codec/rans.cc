// SPDX-License-Identifier: Apache-2.0
#include "codec/rans.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace kvpack {

Bytes RansEncoder::finish(int lanes) {
  std::array<uint32_t, kLanes> state;
  state.fill(kRansLow);
  Bytes reversed;
  reversed.reserve(ops_.size() / 4);
  for (auto op = ops_.rbegin(); op != ops_.rend(); ++op) {
    uint32_t& x = state[op->lane];
    // After the step below the state must stay under 2^16: (x / f) * 256 + ... < 2^16 iff x < f * 256.
    if (x >= uint32_t{op->frequency} << 8) {
      reversed.push_back(static_cast<std::byte>(x & 0xffu));
      x >>= 8;
    }
    x = ((x / op->frequency) << 8) + x % op->frequency + op->start;
  }
  ops_.clear();
  Bytes stream(static_cast<size_t>(lanes) * 2);
  for (int lane = 0; lane < lanes; ++lane) {
    const uint16_t half = static_cast<uint16_t>(state[lane]);
    std::memcpy(stream.data() + 2 * lane, &half, 2);
  }
  stream.insert(stream.end(), reversed.rbegin(), reversed.rend());
  return stream;
}

Result<RansDecoder> RansDecoder::open(ByteSpan stream, int lanes) {
  RansDecoder decoder;
  decoder.lanes_ = lanes;
  ByteReader reader(stream);
  for (int lane = 0; lane < lanes; ++lane) {
    KVPACK_ASSIGN_OR_RETURN(decoder.state_[lane], reader.read<uint16_t>("rANS state"));
    if (decoder.state_[lane] < kRansLow) {
      return corrupt(fmt::format("rANS state of lane {} is {}, below {}", lane, decoder.state_[lane], kRansLow));
    }
  }
  decoder.stream_ = stream.subspan(reader.offset());
  return decoder;
}

Status RansDecoder::finish() const {
  if (next_ != stream_.size()) {
    return corrupt(fmt::format("rANS stream has {} bytes, its symbols use {}", stream_.size(), next_));
  }
  for (int lane = 0; lane < lanes_; ++lane) {
    if (state_[lane] != kRansLow) {
      return corrupt(fmt::format("rANS state of lane {} ends at {}, not at {}", lane, state_[lane], kRansLow));
    }
  }
  return {};
}

}  // namespace kvpack
