// SPDX-License-Identifier: Apache-2.0
// KV caches of transformers' DynamicCache in safetensors files.
//
//   layers.N.key, layers.N.value    [kv_head][token][head_dim], optionally with a leading 1; F16, BF16 or F32
//   (or key_cache.N / value_cache.N, or past_key_values.N.key / .value)
//   __metadata__: "tokens" and "positions", JSON lists of integers as text; both optional
//
// Layers with fewer tokens than the longest (sliding windows) hold the most recent ones. Other tensors are kept
// exactly. The container is the header, verbatim, then the bytes of the other tensors in file order.
#pragma once

#include "formats/kv_file.h"

namespace kvpack {

bool looks_like_safetensors(ByteSpan bytes);

// Zero copy: the planes view `bytes`. Facts made from a GGUF are taken in transformers' channel order (KvFile::facts).
Result<KvFile> read_safetensors(std::shared_ptr<const FileBytes> storage, const KvReadOptions& options);

// The file around its values, which are zero.
Result<KvFileLayout> read_safetensors_layout(ByteSpan container, const KvReadOptions& options);

}  // namespace kvpack
