// SPDX-License-Identifier: Apache-2.0
// transformers' channel j of a head of D is llama.cpp's 2j, and j + D/2 is 2j + 1 (LlamaModel.permute of llama.cpp's
// conversion).
#include "formats/key_order.h"

#include <fmt/format.h>

#include <cstring>

#include "formats/architectures.h"

namespace kvpack {
namespace {

// The channel of a head that goes to channel `d` of the same head.
uint32_t source_channel(uint32_t d, uint32_t head_dim, bool to_llama) {
  const uint32_t half = head_dim / 2;
  if (to_llama) return d / 2 + (d % 2) * half;
  return d < half ? 2 * d : 2 * (d - half) + 1;
}

void reorder(const KvView& from, bool to_llama, std::byte* out) {
  const uint64_t element_bytes = dtype_block_bytes(from.dtype);
  const uint64_t head_bytes = element_bytes * from.head_dim;
  Bytes row(from.packed_row_bytes());
  for (uint32_t token = 0; token < from.tokens; ++token, out += row.size()) {
    load_raw(from, token, 1, row.data());
    for (uint32_t head = 0; head < from.kv_heads; ++head) {
      for (uint32_t d = 0; d < from.head_dim; ++d) {
        std::memcpy(out + head * head_bytes + d * element_bytes,
                    row.data() + head * head_bytes + source_channel(d, from.head_dim, to_llama) * element_bytes,
                    element_bytes);
      }
    }
  }
}

// Both storages, as one.
struct TwoStorages {
  TwoStorages(std::shared_ptr<const FileBytes> before, Bytes own) : old(std::move(before)), keys(std::move(own)) {}
  std::shared_ptr<const FileBytes> old;
  FileBytes keys;
};

}  // namespace

bool key_order_differs(std::string_view architecture, KvFileFormat from, KvFileFormat to) {
  const bool crosses = (from == KvFileFormat::kLlamaState) != (to == KvFileFormat::kLlamaState);
  return crosses && architecture_permutes_heads(architecture);
}

Result<KvTensor> with_key_order_of(KvFileFormat to, const KvTensor& tensor) {
  uint64_t key_bytes = 0;
  for (const KvPlane& plane : tensor.planes) {
    if (plane.side != Side::kKey) continue;
    if (dtype_is_quantized(plane.view.dtype) || plane.view.head_dim % 2 != 0) {
      return unsupported(fmt::format("layer {} K: {} keys with heads of {} channels cannot be reordered", plane.layer,
                                     dtype_name(plane.view.dtype), plane.view.head_dim));
    }
    key_bytes += plane.view.tokens * plane.view.packed_row_bytes();
  }
  Bytes keys(key_bytes);
  KvTensor result = tensor;
  std::byte* at = keys.data();
  for (KvPlane& plane : result.planes) {
    if (plane.side != Side::kKey) continue;
    const KvView& from = plane.view;
    reorder(from, to == KvFileFormat::kLlamaState, at);
    plane.view = make_row_view<const std::byte>(at, from.dtype, from.tokens, from.kv_heads, from.head_dim);
    at += from.tokens * from.packed_row_bytes();
  }
  const auto storages = std::make_shared<const TwoStorages>(tensor.storage, std::move(keys));
  result.storage = std::shared_ptr<const FileBytes>(storages, &storages->keys);
  return result;
}

}  // namespace kvpack
