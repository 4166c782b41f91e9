// SPDX-License-Identifier: Apache-2.0
// Lossless coding of stored values by byte planes: each kind of byte (exponent, mantissa, block scale, ...) is put
// together and compressed on its own, or kept as it is where that is not smaller. Bit-exact for every input.
//
//   f16, bf16, f32   rotated left by one bit, so that the exponent fills the top byte; then one plane per byte, low
//   first quantized types  plane 0: the blocks' scales (and minima), plane 1: their packed values per plane varint
//   stored_bytes (0: the plane is kept as it is), then the bytes
#pragma once

#include "formats/bytes.h"
#include "formats/kv_tensor.h"
#include "formats/result.h"

namespace kvpack {

// `rows`: whole elements or blocks of `dtype`.
Result<Bytes> encode_lossless(ByteSpan rows, DType dtype);
// Exactly rows.size() bytes come back. `in` must be used up.
Status decode_lossless(ByteReader& in, DType dtype, MutableByteSpan rows);

}  // namespace kvpack
