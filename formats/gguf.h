// SPDX-License-Identifier: Apache-2.0
// A metadata-only reader of GGUF, versions 2 and 3 (ggml/docs/gguf.md): key-values and tensor infos, never the weights.
//
//   u32 magic "GGUF" | u32 version | u64 tensor count | u64 key count
//   per key:    string key | u32 type | value             (string: u64 bytes, then the bytes; array: u32 type, u64
//   count) per tensor: string name | u32 dimensions | u64 size per dimension | u32 ggml type | u64 offset into the data
//   padding to general.alignment (32 unless given), then the tensor data
//
// The file may be many gigabytes and hostile: it is read in pieces, every count is checked against what is left of the
// file before it is believed, long arrays (the tokenizer's) are walked but not kept.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/byte_io.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint32_t kGgufTypeF32 = 0;                 // ggml's type id of f32 tensors
inline constexpr uint64_t kMaxGgufHeaderBytes = 256 << 20;  // everything before the tensor data
inline constexpr uint64_t kMaxGgufKeys = 1 << 16;
inline constexpr uint64_t kMaxGgufTensors = 1 << 17;
inline constexpr uint64_t kMaxGgufKeptString = 1 << 16;  // longer values are walked, not kept
inline constexpr uint64_t kMaxGgufKeptArray = 1 << 12;   // elements; longer arrays, and strings in arrays, are not kept
inline constexpr int kMaxGgufArrayDepth = 4;

// A value that was read but not kept.
struct GgufSkipped {
  uint64_t count = 0;  // array elements or string bytes
};
using GgufValue = std::variant<GgufSkipped, bool, uint64_t, int64_t, double, std::string, std::vector<double>>;

struct GgufTensor {
  std::vector<uint64_t> dims;
  uint32_t type = 0;    // ggml type id
  uint64_t offset = 0;  // from the start of the tensor data
  uint64_t values = 0;  // product of dims
};

struct Gguf {
  uint32_t version = 0;
  uint64_t alignment = 32;
  uint64_t header_bytes = 0;  // magic up to and including the last tensor info
  uint64_t data_offset = 0;   // header_bytes, aligned
  std::string header_hash;    // XXH3-128 of the header_bytes, 32 hexadecimal digits
  std::map<std::string, GgufValue, std::less<>> values;
  std::map<std::string, GgufTensor, std::less<>> tensors;

  // The value of `key`, unset if the key is absent; `corrupt` if it has another type than asked for.
  Result<std::optional<uint64_t>> find_uint(std::string_view key) const;
  Result<std::optional<double>> find_number(std::string_view key) const;
  Result<std::optional<std::string>> find_string(std::string_view key) const;
  // An array of numbers (or booleans), or a scalar as an array of one.
  Result<std::optional<std::vector<double>>> find_numbers(std::string_view key) const;
};

bool looks_like_gguf(ByteSpan bytes);

// Errors: unsupported (version, big-endian), corrupt, truncated, limit; each names key or tensor and offset.
Result<Gguf> read_gguf(ByteSource& source);

// The f32 tensor `name`, at most `max_values` values of it; empty if there is none.
Result<std::vector<float>> read_gguf_f32(ByteSource& source, const Gguf& gguf, std::string_view name,
                                         uint64_t max_values);

}  // namespace kvpack
