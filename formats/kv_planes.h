// SPDX-License-Identifier: Apache-2.0
// What the tensor formats (safetensors, npy) share: planes checked against the model's facts, planes copied between
// layouts.
#pragma once

#include "formats/kv_file.h"
#include "formats/kv_tensor.h"

namespace kvpack {

// Largest file that is rebuilt from a container's own numbers.
inline constexpr uint64_t kMaxRebuiltFileBytes = 1ull << 36;

// Sets plane.rope from `facts` (may be null). invalid_argument if the plane's shape is not the model's.
Status match_facts(const ModelFacts* facts, KvPlane& plane);

// What goes into KvFile::facts: `options.facts` in transformers' channel order, if that differs from what they say.
std::optional<ModelFacts> transformers_facts(const KvReadOptions& options);

// Copies all tokens of `from` into `to` (same tokens, heads and head_dim), converting if the types differ.
void copy_plane(const KvView& from, const MutableKvView& to);

// The type that a tensor file gets for values of `stored`: itself, or f16 for quantized types.
DType plain_dtype(DType stored);

// Zeroed bytes for a rebuilt file; limit if there is not enough memory for them.
Result<std::shared_ptr<Bytes>> allocate_file(uint64_t bytes);

}  // namespace kvpack
