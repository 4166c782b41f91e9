// SPDX-License-Identifier: Apache-2.0
// Interleaved range ANS (Duda 2013, arXiv 1311.2540; byte renormalisation as in Giesen's ryg_rans), 32 lanes.
//
// Three things surprise: the encoder runs backwards over the symbols; the state is 16 bits, in [2^8, 2^16), and with
// probabilities in 1/256 renormalisation moves at most one byte; the final states must be exactly 2^8 again, which is a
// free check of the stream.
//
//   stream = u16 state[lanes], then bytes in the order in which the decoder needs them
//
// A step is what one component codes on the 32 lanes at once: a symbol each, or a ternary digit each. Lists of steps
// are what kernels.h runs.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kRansLow = 1u << 8;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr int16_t kEscapeSymbol = 8;  // what a decoder's step leaves where an escape belongs
inline constexpr int kDigitContext = 4;      // a digit's index in its code: 4 (parent is not zero) + r + 1

// Sixteen symbols as a search tree: node 1 is the root, node i's children are 2 i and 2 i + 1, and a slot goes right if
// it is not below the node's value; symbol i is leaf 16 + i. Everything about node or leaf i stands at (i + 1) % 16: a
// step down is then 2 x place - (slot is below). Values are stored with their top bit flipped, for signed comparisons;
// the root's value stands apart too, four times.
struct alignas(16) SymbolCode {
  uint8_t heap[16];
  uint8_t frequency[16];
  uint8_t start[16];
  uint32_t root;
};
inline constexpr int kFirstLeaf = 17;  // the place of symbol 0, before % 16

// Three digits in two contexts. The thresholds stand at 0 and kDigitContext, top bit flipped; the others by index.
struct alignas(16) DigitCode {
  uint8_t low[16];
  uint8_t high[16];
  uint8_t frequency[16];
  uint8_t start[16];
};

// For encoding, symbols and digits alike. A state x that a symbol of frequency f takes is below 256 f, so with
// t = x * reciprocal >> 16 and v = (x - t) / 2 + t the quotient x / f is 2 v * factor >> 16, factor = 2^(16 - shift)
// (Granlund and Montgomery 1994, figure 4.1); the new state is x + quotient * (256 - f) + bias. f = 1 gives a quotient
// of x - 1, which its bias makes up for. 16-bit numbers are split in bytes; a factor's low byte is zero.
struct alignas(16) EncodeCode {
  uint8_t reciprocal_low[16];
  uint8_t reciprocal_high[16];
  uint8_t factor_high[16];
  uint8_t frequency[16];
  uint8_t bias_low[16];
  uint8_t bias_high[16];
};

SymbolCode make_symbol_code(const uint8_t frequency[16]);
DigitCode make_digit_code(const uint8_t frequency[2][3]);
EncodeCode make_encode_code(const uint8_t frequency[16]);
EncodeCode make_encode_code(const uint8_t frequency[2][3]);

// Lanes of one group by the code that they use: disjoint masks.
struct LaneRuns {
  uint32_t count = 0;
  uint32_t mask[8] = {};
};

enum class StepKind : uint8_t { kSymbol, kDigit };

struct RansStep {
  StepKind kind = StepKind::kSymbol;
  const void* code = nullptr;      // SymbolCode or DigitCode of all lanes, or, with `runs`, an array of pointers
  const LaneRuns* runs = nullptr;  // null: all 32 lanes use one code
  int16_t* values = nullptr;       // [32]: symbols -7..8 are written; a digit r turns q into 3 q + r
};

struct RansEncodeStep {
  const void* code = nullptr;  // EncodeCode of all lanes, or, with `runs`, an array of pointers
  const LaneRuns* runs = nullptr;
  const uint8_t* symbols = nullptr;  // [32] indices into the code
};

// One stream being decoded. Kernels read 32 bytes at `next` while it is not beyond `safe_end`; past the stream's end
// zeros are fed, and finish() reports it.
struct alignas(64) RansReader {
  uint16_t state[kLanes];
  const uint8_t* next = nullptr;
  const uint8_t* safe_end = nullptr;
  uint32_t lanes = 0;
  uint32_t tail_bytes = 0;
  bool in_tail = false;
  bool overrun = false;
  uint8_t tail[3 * kLanes];

  RansReader() = default;
  RansReader(const RansReader&) = delete;
  RansReader& operator=(const RansReader&) = delete;
  // `stream` must outlive the reader.
  Status open(ByteSpan stream, uint32_t stream_lanes);
  // Moves to a padded copy of the last bytes.
  void refill();
  // Corrupt unless every byte was used and every state is back at 2^8.
  Status finish() const;

 private:
  const uint8_t* end_ = nullptr;
};

// What is left to do on one stream.
struct RansWork {
  RansReader* reader = nullptr;
  std::span<const RansStep> steps;
};
inline constexpr size_t kMostStreams = 4;

}  // namespace kvpack
