// SPDX-License-Identifier: Apache-2.0
// KV caches in memory: which values there are and where they lie, without copying them.
//
//   KvTensor
//     token_sets[]   positions in ascending order (layers with a sliding window hold fewer tokens than the others)
//     planes[]       one (layer, side) of one token set: [token][kv_head][head_dim]
//
// Layers may differ in head count, head_dim, token set; K and V may differ in head_dim; a layer may have no V (MLA)
// or no KV at all (it then has no plane).
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/bytes.h"
#include "formats/file_bytes.h"
#include "formats/result.h"

namespace kvpack {

// How stored values are represented. The numbers are ggml's type ids, which llama.cpp writes into its files.
enum class DType : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kIq4Nl = 20,
  kBf16 = 30,
};

std::string_view dtype_name(DType dtype);              // "f16", "q8_0", ...
Result<DType> dtype_from_name(std::string_view name);  // invalid_argument names the known ones
bool dtype_is_known(int32_t ggml_type);                // one of the enumerators above
uint32_t dtype_block_values(DType dtype);              // values per block: 1, or 32 for the quantized types
uint32_t dtype_block_bytes(DType dtype);               // bytes per block
inline bool dtype_is_quantized(DType dtype) { return dtype_block_values(dtype) > 1; }

enum class Side : uint8_t { kKey = 0, kValue = 1 };
inline std::string_view side_name(Side side) { return side == Side::kKey ? "K" : "V"; }

// Tokens that a group of planes share, sorted by position (ties, which M-RoPE has, stay in file order).
struct TokenSet {
  std::vector<int32_t> positions;      // [token]
  std::vector<uint32_t> row_of_token;  // [token] -> row in the file's planes; empty: identity
  uint32_t stream = 0;                 // llama.cpp: the stream that holds these cells
};

// One plane's stored values, wherever they lie. Strides are in bytes. For quantized types the channels of a token
// are one contiguous run of blocks in [kv_head][head_dim] order, and head_stride and channel_stride are unused.
// hadamard_block > 0: the stored values are rotated by an orthonormal Sylvester-Hadamard matrix in blocks of that
// many channels (llama.cpp does so before quantizing); reading undoes it and writing redoes it.
template <typename Byte>
struct BasicKvView {
  Byte* data = nullptr;
  DType dtype = DType::kF16;
  uint32_t tokens = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint64_t token_stride = 0;
  uint64_t head_stride = 0;
  uint64_t channel_stride = 0;
  const uint32_t* row_of_token = nullptr;  // null: identity
  uint32_t hadamard_block = 0;
  const FileBytes* mapping = nullptr;  // what the values are mapped from, to be told of reads; null: memory

  uint32_t channels() const { return kv_heads * head_dim; }
  uint64_t row_of(uint32_t token) const { return row_of_token != nullptr ? row_of_token[token] : token; }
  // Bytes of one token's values when stored contiguously.
  uint64_t packed_row_bytes() const {
    return uint64_t{channels()} / dtype_block_values(dtype) * dtype_block_bytes(dtype);
  }
  operator BasicKvView<const std::byte>() const requires(!std::is_const_v<Byte>) {
    return {data,        dtype,          tokens,       kv_heads,       head_dim, token_stride,
            head_stride, channel_stride, row_of_token, hadamard_block, mapping};
  }
};
using KvView = BasicKvView<const std::byte>;
using MutableKvView = BasicKvView<std::byte>;

// A view of contiguous rows [token][kv_head][head_dim] at `data`.
template <typename Byte>
BasicKvView<Byte> make_row_view(Byte* data, DType dtype, uint32_t tokens, uint32_t kv_heads, uint32_t head_dim) {
  BasicKvView<Byte> view;
  view.data = data;
  view.dtype = dtype;
  view.tokens = tokens;
  view.kv_heads = kv_heads;
  view.head_dim = head_dim;
  const uint64_t element_bytes = dtype_block_bytes(dtype);
  view.channel_stride = element_bytes;
  view.head_stride = element_bytes * head_dim;
  view.token_stride = view.packed_row_bytes();
  return view;
}

// The same view from token `first` on.
template <typename Byte>
BasicKvView<Byte> slice_tokens(BasicKvView<Byte> view, uint32_t first, uint32_t count) {
  assert(first + count <= view.tokens);
  if (view.row_of_token != nullptr) {
    view.row_of_token += first;
  } else {
    view.data += first * view.token_stride;
  }
  view.tokens = count;
  return view;
}

// Tokens [first, first + count) as f32, [token][kv_head][head_dim], dequantized and un-rotated where the view says so.
void load_values(const KvView& view, uint32_t first, uint32_t count, float* out);
// The inverse: rounds (to nearest even) or quantizes f32 values into the view.
void store_values(const MutableKvView& view, uint32_t first, uint32_t count, const float* values);
// The stored bytes of tokens [first, first + count), as they are: [token][packed_row_bytes]. store_raw is the inverse.
void load_raw(const KvView& view, uint32_t first, uint32_t count, std::byte* out);
void store_raw(const MutableKvView& view, uint32_t first, uint32_t count, const std::byte* bytes);
// Whoever reads a view's bytes in another way says that it read `tokens` tokens in a row (file_bytes.h).
void note_reads(const KvView& view, uint32_t tokens);

// One (layer, side) of one token set.
struct KvPlane {
  uint32_t layer = 0;  // the model's layer index; where unknown, the ordinal in the file
  Side side = Side::kKey;
  uint32_t token_set = 0;
  int32_t rope = -1;  // index into ModelFacts::ropes; -1: unknown or none (keys are then taken as they are)
  KvView view;
};

struct KvTensor {
  std::vector<TokenSet> token_sets;
  std::vector<KvPlane> planes;               // token set by token set, layers ascending, K before V
  std::shared_ptr<const FileBytes> storage;  // keeps the views' bytes alive; may be null when the caller does

  uint64_t values() const;     // number of stored values
  uint64_t raw_bytes() const;  // their bytes as stored
};

}  // namespace kvpack
