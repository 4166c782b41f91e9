// SPDX-License-Identifier: Apache-2.0
// The order of a key's channels. llama.cpp's converter reorders each head of some architectures (architectures.h:
// architecture_permutes_heads), so their keys lie otherwise in a llama.cpp state than in a transformers cache. Values
// are never reordered.
#pragma once

#include "formats/kv_file.h"
#include "formats/kv_tensor.h"

namespace kvpack {

// Whether keys change their order on the way from one format to the other, for a model of this architecture.
bool key_order_differs(std::string_view architecture, KvFileFormat from, KvFileFormat to);

// The same tensor with the keys in the order of `to`, copied into storage of its own; all other planes view the old
// storage, which is kept alive. Errors: unsupported (quantized keys, an odd head_dim).
Result<KvTensor> with_key_order_of(KvFileFormat to, const KvTensor& tensor);

}  // namespace kvpack
