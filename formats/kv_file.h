// SPDX-License-Identifier: Apache-2.0
// A KV file of any known format as a KvTensor, and back. What is not values (headers, positions, token ids, recurrent
// state, trailing bytes) travels as the `container`: an opaque blob from which the same file can be rebuilt to the
// byte.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/kv_tensor.h"
#include "formats/model_facts.h"

namespace kvpack {

enum class KvFileFormat : uint8_t { kLlamaState = 1, kSafetensors = 2, kNpy = 3 };
std::string_view kv_file_format_name(KvFileFormat format);  // "llama", "safetensors", "npy"

struct KvFile {
  KvFileFormat format = KvFileFormat::kLlamaState;
  std::string description;        // one line for people: "llama.cpp sequence file v3, packed payload, iSWA, ..."
  std::string module;             // memory module: "unified", "iSWA", "hybrid", ... ("" outside llama.cpp)
  bool has_opaque_state = false;  // holds state that is not attention KV (recurrent, DSV4) and is kept exactly
  KvTensor tensor;                // views into tensor.storage
  std::vector<int32_t> tokens;    // token ids in position order; may be empty
  Bytes container;                // rebuilds the file around the values; not compressed
  std::string assumptions;        // what was assumed and not read, e.g. "Hadamard rotation of quantized K and V"
  // The facts as they hold for this file's channel order, where KvReadOptions::facts say otherwise (a GGUF's facts and
  // a transformers cache); plane.rope indexes these then. Unset: KvReadOptions::facts hold as they are.
  std::optional<ModelFacts> facts;
};

struct KvReadOptions {
  const ModelFacts* facts = nullptr;  // null: heads unknown, one head as wide as the row; no RoPE
  bool hadamard_rotated = true;       // quantized llama.cpp caches are rotated unless LLAMA_ATTN_ROT_DISABLE was set
};

// Recognises the format by content. Errors: unsupported (unknown version or module: named), corrupt, truncated,
// invalid_argument (facts contradict the file: both numbers named).
Result<KvFile> read_kv_file(std::shared_ptr<const FileBytes> bytes, const KvReadOptions& options);
Result<KvFile> read_kv_file(Bytes bytes, const KvReadOptions& options);

// Where everything belongs in the file that a container describes.
struct KvFileLayout {
  struct Piece {
    uint64_t offset = 0;  // in the file
    ByteSpan bytes;       // in the container
  };
  uint64_t bytes = 0;         // of the whole file
  std::vector<Piece> pieces;  // all but the values
  std::vector<TokenSet> token_sets;
  std::vector<MutableKvView> planes;    // their data unset; same order and shapes as at encoding
  std::vector<uint64_t> plane_offsets;  // where a plane's data begins in the file
};
// `container` must outlive the layout. Errors: unsupported, corrupt, truncated, limit (a file of more than 64 GiB).
Result<KvFileLayout> read_container(KvFileFormat format, ByteSpan container, const KvReadOptions& options);

// A file rebuilt in memory, its values still zero: fill `planes`, then write `bytes`.
struct KvFileImage {
  std::shared_ptr<Bytes> bytes;
  std::vector<TokenSet> token_sets;
  std::vector<MutableKvView> planes;
};
Result<KvFileImage> image_of(KvFileLayout layout);  // limit if there is not enough memory
Result<KvFileImage> open_container(KvFileFormat format, ByteSpan container, const KvReadOptions& options);

// How to lay out a llama.cpp state file on conversion. Unset fields keep what the container has (or, from another
// format: sequence file, plain payload, 1 stream, row V, f16).
struct LlamaLayout {
  std::optional<uint32_t> streams;
  std::optional<uint32_t> stream;  // which stream gets the cells
  std::optional<bool> transposed_v;
  std::optional<DType> key_type;
  std::optional<DType> value_type;
  std::optional<bool> packed_payload;  // llama-server's packed token payload instead of a plain list
  bool swa_guard_cell = false;         // one never-attended cell so that llama-server reuses a restored SWA context
  bool any() const;
};

// Writers from values (contiguous f32/f16/... planes with any strides). `container` may be empty (other source format).
Result<Bytes> write_llama_state(const KvTensor& tensor, const std::vector<int32_t>& tokens, ByteSpan container,
                                const LlamaLayout& layout);
// Whether write_llama_state would add a guard cell: a sequence file with a complete sliding window that does not reach
// back to the first two positions and has no guard cell yet.
bool swa_guard_cell_possible(const KvTensor& tensor, ByteSpan container);
Result<Bytes> write_safetensors(const KvTensor& tensor, const std::vector<int32_t>& tokens, std::optional<DType> dtype);
Result<Bytes> write_npy(const KvTensor& tensor, std::optional<DType> dtype);

}  // namespace kvpack
