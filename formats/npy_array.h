// SPDX-License-Identifier: Apache-2.0
// A .npy array of plain numbers (scores, masks) as f32. KV caches in .npy files: npy.h.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

struct NpyArray {
  std::vector<uint64_t> shape;
  std::vector<float> values;  // in C order
};

// Types '<f2', '<f4', '<f8', '|b1' and '|u1', C order, at most `max_values` values. Errors: corrupt, truncated,
// unsupported (another type, Fortran order), limit.
Result<NpyArray> read_npy_array(ByteSpan bytes, uint64_t max_values);

}  // namespace kvpack
