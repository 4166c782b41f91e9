// SPDX-License-Identifier: Apache-2.0
// KV caches as one NumPy array (.npy versions 1 to 3, numpy/lib/format.py):
//
//   "\x93NUMPY" | u8 major | u8 minor | u16 (version 1) or u32 length | header text | values
//   header text: {'descr': '<f2', 'fortran_order': False, 'shape': (layers, 2, kv_heads, tokens, head_dim), }
//
// The second dimension is K, V. Types: '<f2', '<f4', and bf16 as '|V2' (how ml_dtypes' bfloat16 is saved) or '<u2'.
// Positions are 0 .. tokens - 1. The container is everything before the values, verbatim.
#pragma once

#include "formats/kv_file.h"

namespace kvpack {

bool looks_like_npy(ByteSpan bytes);

// Zero copy: the planes view `bytes`. With facts of which some layers have no KV, the array's layers are the others.
Result<KvFile> read_npy(std::shared_ptr<const FileBytes> storage, const KvReadOptions& options);

// The file around its values, which are zero.
Result<KvFileLayout> read_npy_layout(ByteSpan container, const KvReadOptions& options);

}  // namespace kvpack
