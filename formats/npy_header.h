// SPDX-License-Identifier: Apache-2.0
// The header of a .npy file: a Python dict of three known keys, parsed by hand and nothing else accepted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint64_t kMaxNpyHeaderBytes = 1 << 16;

struct NpyHeader {
  std::string descr;
  bool fortran_order = false;
  std::vector<uint64_t> shape;
  uint64_t data_offset = 0;
};

Result<NpyHeader> parse_npy_header(ByteSpan bytes);

// Version 1, padded so that the values are aligned to 64 bytes.
Bytes make_npy_header(const NpyHeader& header);

}  // namespace kvpack
