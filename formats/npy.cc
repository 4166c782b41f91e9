// SPDX-License-Identifier: Apache-2.0
#include "formats/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstring>

#include "formats/archive.h"
#include "formats/kv_planes.h"
#include "formats/npy_header.h"

namespace kvpack {
namespace {

struct NpyCache {
  NpyHeader header;
  DType dtype = DType::kF16;
  std::vector<uint32_t> layer_of;        // [array layer] -> the model's layer
  std::array<uint64_t, 5> strides = {};  // bytes, [layer][side][kv_head][token][head_dim]
  uint64_t data_bytes = 0;
};

Result<DType> dtype_of(const std::string& descr) {
  if (descr == "<f2") return DType::kF16;
  if (descr == "<f4") return DType::kF32;
  if (descr == "|V2" || descr == "<V2" || descr == "<u2") return DType::kBf16;
  return unsupported(fmt::format("npy type '{}', read are '<f2', '<f4' and bf16 as '|V2' or '<u2'", descr));
}

Status check_shape(const std::vector<uint64_t>& shape) {
  const bool known = shape.size() == 5 && shape[1] == 2;
  if (!known) {
    return unsupported(
        fmt::format("npy shape ({}), expected (layers, 2, kv_heads, tokens, head_dim)", fmt::join(shape, ", ")));
  }
  if (shape[0] == 0 || shape[0] > kMaxLayers || shape[2] == 0 || shape[2] > kMaxKvHeads || shape[3] == 0 ||
      shape[3] > kMaxTokensPerSet || shape[4] == 0 || shape[4] > kMaxHeadDim) {
    return limit_exceeded(
        fmt::format("npy shape ({}), allowed are 1 to {} layers, 1 to {} heads, at least one token and at "
                    "most {}, head_dim 1 to {}",
                    fmt::join(shape, ", "), kMaxLayers, kMaxKvHeads, kMaxTokensPerSet, kMaxHeadDim));
  }
  return {};
}

// Without facts, or if the array has all layers: the same numbers. Else the model's layers with KV, in order.
Result<std::vector<uint32_t>> map_layers(uint64_t layers, const ModelFacts* facts) {
  std::vector<uint32_t> with_kv;
  for (uint32_t i = 0; facts != nullptr && i < facts->layers.size(); ++i) {
    if (facts->layers[i].kv_heads > 0) with_kv.push_back(i);
  }
  if (facts != nullptr && with_kv.size() != layers) {
    return invalid_argument(fmt::format("the file has {} layers, the model {} with KV", layers, with_kv.size()));
  }
  for (uint32_t i = 0; facts == nullptr && i < layers; ++i) with_kv.push_back(i);
  return with_kv;
}

Result<NpyCache> parse_cache(ByteSpan bytes, const ModelFacts* facts) {
  NpyCache cache;
  KVPACK_ASSIGN_OR_RETURN(cache.header, parse_npy_header(bytes));
  const std::vector<uint64_t>& shape = cache.header.shape;
  KVPACK_ASSIGN_OR_RETURN(cache.dtype, dtype_of(cache.header.descr));
  KVPACK_RETURN_IF_ERROR(check_shape(shape));
  cache.data_bytes = dtype_block_bytes(cache.dtype);
  for (size_t i = 0; i < shape.size(); ++i) {
    const size_t dim = cache.header.fortran_order ? i : shape.size() - 1 - i;
    cache.strides[dim] = cache.data_bytes;
    if (!checked_mul(cache.data_bytes, shape[dim], &cache.data_bytes)) return corrupt("npy shape overflows 64 bits");
  }
  KVPACK_ASSIGN_OR_RETURN(cache.layer_of, map_layers(shape[0], facts));
  return cache;
}

TokenSet token_set_of(const NpyCache& cache) {
  TokenSet set;
  set.positions.resize(cache.header.shape[3]);
  for (size_t i = 0; i < set.positions.size(); ++i) set.positions[i] = static_cast<int32_t>(i);
  return set;
}

// Where one (layer, side) begins among the values.
uint64_t offset_of(const NpyCache& cache, uint32_t layer, uint32_t side) {
  return layer * cache.strides[0] + side * cache.strides[1];
}

// A view of one (layer, side) at `data`, or null.
template <typename Byte>
BasicKvView<Byte> view_of(const NpyCache& cache, Byte* data) {
  BasicKvView<Byte> view;
  view.data = data;
  view.dtype = cache.dtype;
  view.kv_heads = static_cast<uint32_t>(cache.header.shape[2]);
  view.tokens = static_cast<uint32_t>(cache.header.shape[3]);
  view.head_dim = static_cast<uint32_t>(cache.header.shape[4]);
  view.head_stride = cache.strides[2];
  view.token_stride = cache.strides[3];
  view.channel_stride = cache.strides[4];
  return view;
}

}  // namespace

bool looks_like_npy(ByteSpan bytes) { return bytes.size() >= 6 && std::memcmp(bytes.data(), "\x93NUMPY", 6) == 0; }

Result<KvFile> read_npy(std::shared_ptr<const FileBytes> storage, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(NpyCache cache, parse_cache(*storage, options.facts));
  const uint64_t data_bytes = storage->size() - cache.header.data_offset;
  if (data_bytes != cache.data_bytes) {
    const std::string text = fmt::format("npy: {} bytes of values, the header says {}", data_bytes, cache.data_bytes);
    return data_bytes < cache.data_bytes ? truncated(text) : corrupt(text);
  }
  KvFile file;
  file.format = KvFileFormat::kNpy;
  file.facts = transformers_facts(options);
  file.container.assign(storage->data(), storage->data() + cache.header.data_offset);
  file.tensor.storage = storage;
  file.tensor.token_sets.push_back(token_set_of(cache));
  for (uint32_t layer = 0; layer < cache.layer_of.size(); ++layer) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      KvPlane plane{cache.layer_of[layer], side, 0, -1, {}};
      plane.view = view_of(
          cache, storage->data() + cache.header.data_offset + offset_of(cache, layer, static_cast<uint32_t>(side)));
      KVPACK_RETURN_IF_ERROR(match_facts(options.facts, plane));
      file.tensor.planes.push_back(plane);
    }
  }
  file.description = fmt::format("npy, [layer][K, V][head][token][channel], {} layers, {} tokens",
                                 cache.layer_of.size(), cache.header.shape[3]);
  if (options.facts != nullptr) file.assumptions = "keys in transformers' channel order";
  if (cache.dtype == DType::kBf16) file.assumptions += file.assumptions.empty() ? "bf16 values" : ", bf16 values";
  return file;
}

Result<KvFileLayout> read_npy_layout(ByteSpan container, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(NpyCache cache, parse_cache(container, options.facts));
  const uint64_t data_offset = cache.header.data_offset;
  if (container.size() != data_offset) {
    return corrupt(
        fmt::format("npy container: {} bytes after the header, expected none", container.size() - data_offset));
  }
  KvFileLayout layout;
  if (!checked_add(data_offset, cache.data_bytes, &layout.bytes)) return corrupt("npy shape overflows 64 bits");
  layout.pieces.push_back({0, container});
  layout.token_sets.push_back(token_set_of(cache));
  for (uint32_t layer = 0; layer < cache.layer_of.size(); ++layer) {
    for (uint32_t side = 0; side < 2; ++side) {
      layout.planes.push_back(view_of<std::byte>(cache, nullptr));
      layout.plane_offsets.push_back(data_offset + offset_of(cache, layer, side));
    }
  }
  return layout;
}

Result<Bytes> write_npy(const KvTensor& tensor, std::optional<DType> dtype) {
  if (tensor.planes.empty() || tensor.planes.size() % 2 != 0)
    return unsupported("npy needs a K and a V of every layer");
  const KvView& first = tensor.planes.front().view;
  NpyCache cache;
  cache.dtype = dtype.value_or(plain_dtype(first.dtype));
  if (dtype_is_quantized(cache.dtype)) {
    return unsupported(fmt::format("npy holds f16, bf16 or f32, not {}", dtype_name(cache.dtype)));
  }
  for (size_t i = 0; i < tensor.planes.size(); ++i) {
    const KvPlane& plane = tensor.planes[i];
    if (plane.side != static_cast<Side>(i % 2) || plane.layer != tensor.planes[i - i % 2].layer ||
        plane.token_set != tensor.planes[0].token_set || plane.view.kv_heads != first.kv_heads ||
        plane.view.head_dim != first.head_dim || plane.view.tokens != first.tokens) {
      return unsupported(
          fmt::format("npy is one array: layer {} {} differs in shape or tokens from the first; "
                      "write safetensors instead",
                      plane.layer, side_name(plane.side)));
    }
  }
  cache.header.descr = cache.dtype == DType::kF16 ? "<f2" : cache.dtype == DType::kF32 ? "<f4" : "|V2";
  cache.header.shape = {tensor.planes.size() / 2, 2, first.kv_heads, first.tokens, first.head_dim};
  Bytes bytes = make_npy_header(cache.header);
  KVPACK_ASSIGN_OR_RETURN(cache, parse_cache(bytes, nullptr));
  const uint64_t data_offset = bytes.size();
  bytes.resize(data_offset + cache.data_bytes);
  for (uint32_t i = 0; i < tensor.planes.size(); ++i) {
    copy_plane(tensor.planes[i].view, view_of(cache, bytes.data() + data_offset + offset_of(cache, i / 2, i % 2)));
  }
  return bytes;
}

}  // namespace kvpack
