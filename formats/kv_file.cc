// SPDX-License-Identifier: Apache-2.0
// Tells formats apart by their first bytes and hands over to their readers.
#include "formats/kv_file.h"

#include <fmt/format.h>

#include "formats/llama_state.h"
#if __has_include("formats/safetensors.h")
#include "formats/safetensors.h"
#define KVPACK_HAS_SAFETENSORS 1
#endif
#if __has_include("formats/npy.h")
#include "formats/npy.h"
#define KVPACK_HAS_NPY 1
#endif

namespace kvpack {
namespace {

constexpr std::string_view kKnownFormats =
    "known: llama.cpp sequence files (qsgg) and session files (nsgg), safetensors, npy";

bool starts_with(ByteSpan bytes, std::string_view magic) { return as_text(bytes).starts_with(magic); }

Error unknown_format(ByteSpan bytes) {
  if (bytes.empty()) return truncated("the file is empty");
  if (starts_with(bytes, "GGUF")) {
    return unsupported("this is a GGUF model, not a KV cache; give it as the model of a cache file");
  }
  if (starts_with(bytes, "\x89KVP") || starts_with(bytes, "KVP") || starts_with(bytes, "kvp")) {
    return unsupported("this is a .kvp archive, already compressed; decode it first");
  }
  std::string first_bytes;
  for (size_t i = 0; i < bytes.size() && i < 8; ++i) {
    first_bytes += fmt::format("{}{:02x}", i == 0 ? "" : " ", static_cast<unsigned>(bytes[i]));
  }
  return unsupported(fmt::format("not a KV cache file: its first bytes are {}; {}", first_bytes, kKnownFormats));
}

}  // namespace

std::string_view kv_file_format_name(KvFileFormat format) {
  switch (format) {
    case KvFileFormat::kLlamaState:
      return "llama";
    case KvFileFormat::kSafetensors:
      return "safetensors";
    case KvFileFormat::kNpy:
      return "npy";
  }
  return "unknown";
}

bool LlamaLayout::any() const {
  return streams || stream || transposed_v || key_type || value_type || packed_payload || swa_guard_cell;
}

Result<KvFile> read_kv_file(Bytes bytes, const KvReadOptions& options) {
  if (looks_like_llama_state(bytes)) return read_llama_state(std::move(bytes), options);
#ifdef KVPACK_HAS_NPY
  if (looks_like_npy(bytes)) return read_npy(std::move(bytes), options);
#endif
#ifdef KVPACK_HAS_SAFETENSORS
  if (looks_like_safetensors(bytes)) return read_safetensors(std::move(bytes), options);
#endif
  return unknown_format(bytes);
}

Result<KvFileImage> open_container(KvFileFormat format, ByteSpan container, const KvReadOptions& options) {
  switch (format) {
    case KvFileFormat::kLlamaState:
      return open_llama_container(container);
    case KvFileFormat::kSafetensors:
#ifdef KVPACK_HAS_SAFETENSORS
      return open_safetensors_container(container, options);
#else
      break;
#endif
    case KvFileFormat::kNpy:
#ifdef KVPACK_HAS_NPY
      return open_npy_container(container, options);
#else
      break;
#endif
  }
  return unsupported(fmt::format("containers of format {} ({}) are not known", static_cast<unsigned>(format),
                                 kv_file_format_name(format)));
}

}  // namespace kvpack
