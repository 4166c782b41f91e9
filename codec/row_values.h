// SPDX-License-Identifier: Apache-2.0
// load_values (formats/kv_tensor.h) by this folder's kernels: the same values, for whole contexts.
#pragma once

#include "formats/kv_tensor.h"

namespace kvpack {

// Tokens [first, first + count) as f32, [token][kv_head][head_dim].
void load_rows(const KvView& view, uint32_t first, uint32_t count, float* out);

// Whether the view's rows are one block of memory, token by token as they are stored: they can be used where they lie.
bool is_one_block(const KvView& view);

// Whether all are finite.
bool all_finite(const float* values, size_t count);

}  // namespace kvpack
