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

#include <cstdint>
#include <span>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

// Values' top bytes by group of 32 tokens, channel, lane (a last group's lanes beyond `tokens` are unused): exponents,
// over `mantissa_bits` (0, or f16's 3) bits of mantissa.
Bytes encode_exponents(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens, uint32_t channels);
Status decode_exponents(ByteReader& in, int mantissa_bits, uint32_t tokens, uint32_t channels, std::span<uint8_t> tops);

}  // namespace kvpack
