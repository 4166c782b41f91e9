// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file (https://github.com/huggingface/safetensors, "Format"), under its safety rules.
//
//   u64 N | N bytes of JSON {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets": [begin, end]}} |
//   data
//
// N is at most 100,000,000 and lies within the file; no key twice; offsets are relative to the data, begin at 0, leave
// no hole, do not overlap and end with the file; a tensor's bytes are exactly its shape times its type.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F16", "BF16", ...
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // into the data
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  // by offset
  uint64_t data_offset = 0;               // in the file
  uint64_t data_bytes = 0;                // as the entries say
};

// From the start of a file; what follows the header is not looked at.
Result<SafetensorsHeader> parse_safetensors_header(ByteSpan bytes);

// The length and the JSON, padded with spaces so that the data begins at a multiple of 8. Names differ, entries lie one
// after another.
Bytes write_safetensors_header(const std::map<std::string, std::string>& metadata,
                               const std::vector<SafetensorsEntry>& entries);

}  // namespace kvpack
