// SPDX-License-Identifier: Apache-2.0
#include "codec/rans.h"

#include <fmt/format.h>

#include <cassert>
#include <cstring>

namespace kvpack {
namespace {

constexpr uint8_t kTopBit = 0x80;

uint8_t flipped(uint32_t slot) {
  assert(slot < 256);
  return static_cast<uint8_t>(slot ^ kTopBit);
}

void set_encode_symbol(EncodeCode& code, int index, uint32_t frequency, uint32_t start) {
  if (frequency == 0) return;
  uint32_t shift = 1;
  while ((1u << shift) < frequency) ++shift;
  const uint32_t reciprocal = frequency == 1 ? 0xffffu : 0x10000u * ((1u << shift) - frequency) / frequency + 1;
  const uint32_t bias = start + (frequency == 1 ? 255 : 0);
  code.reciprocal_low[index] = static_cast<uint8_t>(reciprocal);
  code.reciprocal_high[index] = static_cast<uint8_t>(reciprocal >> 8);
  code.factor_high[index] = static_cast<uint8_t>(1u << (8 - shift));
  code.frequency[index] = static_cast<uint8_t>(frequency);
  code.bias_low[index] = static_cast<uint8_t>(bias);
  code.bias_high[index] = static_cast<uint8_t>(bias >> 8);
}

// In-order walk: node `at` splits the symbols [first, first + count).
void fill_heap(const uint32_t* start, int at, int first, int count, uint8_t* heap) {
  if (count == 1) return;
  heap[(at + 1) % 16] = flipped(start[first + count / 2]);
  fill_heap(start, 2 * at, first, count / 2, heap);
  fill_heap(start, 2 * at + 1, first + count / 2, count / 2, heap);
}

}  // namespace

SymbolCode make_symbol_code(const uint8_t frequency[16]) {
  SymbolCode code{};
  uint32_t start[16];
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) {
    start[i] = sum;
    code.frequency[(kFirstLeaf + i) % 16] = frequency[i];
    code.start[(kFirstLeaf + i) % 16] = static_cast<uint8_t>(sum);
    sum += frequency[i];
  }
  assert(sum == 256 && frequency[15] > 0);
  fill_heap(start, 1, 0, 16, code.heap);
  code.root = 0x01010101u * code.heap[2];
  return code;
}

DigitCode make_digit_code(const uint8_t frequency[2][3]) {
  DigitCode code{};
  for (int context = 0; context < 2; ++context) {
    const int at = context * kDigitContext;
    uint32_t sum = 0;
    for (int i = 0; i < 3; ++i) {
      assert(frequency[context][i] > 0);
      code.frequency[at + i] = frequency[context][i];
      code.start[at + i] = static_cast<uint8_t>(sum);
      sum += frequency[context][i];
    }
    code.low[at] = flipped(code.start[at + 1]);
    code.high[at] = flipped(code.start[at + 2]);
  }
  return code;
}

EncodeCode make_encode_code(const uint8_t frequency[16]) {
  EncodeCode code{};
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) {
    set_encode_symbol(code, i, frequency[i], sum);
    sum += frequency[i];
  }
  return code;
}

EncodeCode make_encode_code(const uint8_t frequency[2][3]) {
  EncodeCode code{};
  for (int context = 0; context < 2; ++context) {
    uint32_t sum = 0;
    for (int i = 0; i < 3; ++i) {
      set_encode_symbol(code, context * kDigitContext + i, frequency[context][i], sum);
      sum += frequency[context][i];
    }
  }
  return code;
}

Status RansReader::open(ByteSpan stream, uint32_t stream_lanes) {
  assert(stream_lanes <= kLanes);
  lanes = stream_lanes;
  std::fill(std::begin(state), std::end(state), static_cast<uint16_t>(kRansLow));
  ByteReader reader(stream);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    KVPACK_ASSIGN_OR_RETURN(state[lane], reader.read<uint16_t>("rANS state"));
    if (state[lane] < kRansLow) {
      return corrupt(fmt::format("rANS state of lane {} is {}, below {}", lane, state[lane], kRansLow));
    }
  }
  next = reinterpret_cast<const uint8_t*>(stream.data()) + reader.offset();
  end_ = reinterpret_cast<const uint8_t*>(stream.data()) + stream.size();
  in_tail = false;
  overrun = false;
  if (end_ - next >= kLanes) {
    safe_end = end_ - kLanes;
  } else {
    refill();
  }
  return {};
}

void RansReader::refill() {
  if (in_tail) {
    overrun = true;
    next = tail + kLanes;  // zeros
    return;
  }
  // A kernel stops within a step of `safe_end`, so at most 32 bytes are left, and none have been read too many.
  in_tail = true;
  tail_bytes = static_cast<uint32_t>(end_ - next);
  std::memset(tail, 0, sizeof tail);
  std::memcpy(tail, next, tail_bytes);
  next = tail;
  safe_end = tail + sizeof tail - kLanes;
}

Status RansReader::finish() const {
  const uint8_t* last = in_tail ? tail + tail_bytes : end_;
  if (overrun || next > last) return corrupt("rANS stream ends before its last symbol");
  if (next != last) return corrupt(fmt::format("rANS stream has {} bytes too many", last - next));
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    if (state[lane] != kRansLow) {
      return corrupt(fmt::format("rANS state of lane {} ends at {}, not at {}", lane, state[lane], kRansLow));
    }
  }
  return {};
}

}  // namespace kvpack
