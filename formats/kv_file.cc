// SPDX-License-Identifier: Apache-2.0
// Tells formats apart by their first bytes and hands over to their readers.
#include "formats/kv_file.h"

#include <fmt/format.h>

#include <cstring>

#include "formats/kv_planes.h"
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

Result<KvFile> read_any(std::shared_ptr<const FileBytes> bytes, const KvReadOptions& options) {
  if (looks_like_llama_state(*bytes)) return read_llama_state(std::move(bytes), options);
#ifdef KVPACK_HAS_NPY
  if (looks_like_npy(*bytes)) return read_npy(std::move(bytes), options);
#endif
#ifdef KVPACK_HAS_SAFETENSORS
  if (looks_like_safetensors(*bytes)) return read_safetensors(std::move(bytes), options);
#endif
  return unknown_format(*bytes);
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
  return read_kv_file(std::make_shared<const FileBytes>(std::move(bytes)), options);
}

Result<KvFile> read_kv_file(std::shared_ptr<const FileBytes> bytes, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(KvFile file, read_any(std::move(bytes), options));
  if (file.tensor.storage->is_mapped()) {
    for (KvPlane& plane : file.tensor.planes) plane.view.mapping = file.tensor.storage.get();
  }
  return file;
}

namespace {

Result<KvFileLayout> read_any_container(KvFileFormat format, ByteSpan container, const KvReadOptions& options) {
  switch (format) {
    case KvFileFormat::kLlamaState:
      return read_llama_layout(container);
    case KvFileFormat::kSafetensors:
#ifdef KVPACK_HAS_SAFETENSORS
      return read_safetensors_layout(container, options);
#else
      break;
#endif
    case KvFileFormat::kNpy:
#ifdef KVPACK_HAS_NPY
      return read_npy_layout(container, options);
#else
      break;
#endif
  }
  return unsupported(fmt::format("containers of format {} ({}) are not known", static_cast<unsigned>(format),
                                 kv_file_format_name(format)));
}

}  // namespace

Result<KvFileLayout> read_container(KvFileFormat format, ByteSpan container, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(KvFileLayout layout, read_any_container(format, container, options));
  if (layout.bytes <= kMaxRebuiltFileBytes) return layout;
  return limit_exceeded(fmt::format("the file would have {} bytes, at most {}", layout.bytes, kMaxRebuiltFileBytes));
}

Result<KvFileImage> open_container(KvFileFormat format, ByteSpan container, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(KvFileLayout layout, read_container(format, container, options));
  return image_of(std::move(layout));
}

Result<KvFileImage> image_of(KvFileLayout layout) {
  KvFileImage image;
  KVPACK_ASSIGN_OR_RETURN(image.bytes, allocate_file(layout.bytes));
  for (const auto& [offset, bytes] : layout.pieces) {
    if (!bytes.empty()) std::memcpy(image.bytes->data() + offset, bytes.data(), bytes.size());
  }
  image.token_sets = std::move(layout.token_sets);
  image.planes = std::move(layout.planes);
  for (size_t p = 0; p < image.planes.size(); ++p) image.planes[p].data = image.bytes->data() + layout.plane_offsets[p];
  return image;
}

}  // namespace kvpack
