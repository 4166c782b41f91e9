// SPDX-License-Identifier: Apache-2.0
#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "formats/json_text.h"

namespace kvpack {
namespace {

constexpr size_t kMaxDims = 8;

constexpr auto kElementBytes = std::to_array<std::pair<std::string_view, uint64_t>>({
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"F8_E8M0", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
    {"C64", 8},
});

Error wrong_entry(const std::string& name, std::string_view expected) {
  return corrupt(fmt::format("safetensors header, tensor '{}': expected {}", name, expected));
}

// A list of whole numbers.
Result<std::vector<uint64_t>> read_numbers(const Json& entry, const std::string& name, const char* field, size_t most) {
  const auto found = entry.find(field);
  if (found == entry.end() || !found->is_array() || found->size() > most) {
    return wrong_entry(name, fmt::format("\"{}\" with at most {} numbers", field, most));
  }
  std::vector<uint64_t> numbers;
  for (const Json& number : *found) {
    if (!number.is_number_unsigned()) return wrong_entry(name, fmt::format("whole numbers in \"{}\"", field));
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

Status check_size(const SafetensorsEntry& entry) {
  uint64_t bytes = 0;
  for (const auto& [dtype, size] : kElementBytes) {
    if (dtype == entry.dtype) bytes = size;
  }
  if (bytes == 0) {
    return unsupported(fmt::format("safetensors header, tensor '{}': dtype '{}'", entry.name, entry.dtype));
  }
  for (uint64_t dim : entry.shape) {
    if (!checked_mul(bytes, dim, &bytes)) return wrong_entry(entry.name, "a shape within 64 bits");
  }
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    return corrupt(fmt::format("safetensors header, tensor '{}': data_offsets {} to {} for {} bytes of values",
                               entry.name, entry.begin, entry.end, bytes));
  }
  return {};
}

Result<SafetensorsEntry> read_entry(const std::string& name, const Json& json) {
  if (!json.is_object() || json.size() != 3) return wrong_entry(name, "exactly \"dtype\", \"shape\", \"data_offsets\"");
  SafetensorsEntry entry;
  entry.name = name;
  const auto dtype = json.find("dtype");
  if (dtype == json.end() || !dtype->is_string()) return wrong_entry(name, "a text \"dtype\"");
  entry.dtype = dtype->get<std::string>();
  KVPACK_ASSIGN_OR_RETURN(entry.shape, read_numbers(json, name, "shape", kMaxDims));
  KVPACK_ASSIGN_OR_RETURN(auto offsets, read_numbers(json, name, "data_offsets", 2));
  if (offsets.size() != 2) return wrong_entry(name, "two \"data_offsets\"");
  entry.begin = offsets[0];
  entry.end = offsets[1];
  KVPACK_RETURN_IF_ERROR(check_size(entry));
  return entry;
}

Status read_metadata(const Json& json, SafetensorsHeader& header) {
  if (!json.is_object()) return corrupt("safetensors header: \"__metadata__\" is not an object");
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) return corrupt(fmt::format("safetensors header: metadata '{}' is not text", key));
    header.metadata[key] = value.get<std::string>();
  }
  return {};
}

// Sorted by offset, every entry begins where the one before ends.
Status check_coverage(SafetensorsHeader& header) {
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != header.data_bytes) {
      return corrupt(fmt::format("safetensors header, tensor '{}': begins at {}, the one before ends at {} ({})",
                                 entry.name, entry.begin, header.data_bytes,
                                 entry.begin < header.data_bytes ? "overlap" : "hole"));
    }
    header.data_bytes = entry.end;
  }
  return {};
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(ByteSpan bytes) {
  ByteReader reader(bytes);
  KVPACK_ASSIGN_OR_RETURN(uint64_t header_bytes, reader.read<uint64_t>("safetensors header length"));
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return limit_exceeded(fmt::format("offset 0: a safetensors header of {} bytes, at most {}", header_bytes,
                                      kMaxSafetensorsHeaderBytes));
  }
  KVPACK_ASSIGN_OR_RETURN(ByteSpan text, reader.take(header_bytes, "safetensors header"));
  if (text.empty() || text[0] != std::byte{'{'}) return corrupt("offset 8: a safetensors header begins with '{'");
  auto json = parse_json(as_text(text), kMaxSafetensorsHeaderBytes);
  if (!json.ok()) return json.error().within("safetensors header");
  if (!json->is_object()) return corrupt("safetensors header: not a JSON object");
  SafetensorsHeader header;
  header.data_offset = reader.offset();
  for (const auto& [name, value] : json->items()) {
    if (name == "__metadata__") {
      KVPACK_RETURN_IF_ERROR(read_metadata(value, header));
      continue;
    }
    KVPACK_ASSIGN_OR_RETURN(SafetensorsEntry entry, read_entry(name, value));
    header.entries.push_back(std::move(entry));
  }
  KVPACK_RETURN_IF_ERROR(check_coverage(header));
  return header;
}

Bytes write_safetensors_header(const std::map<std::string, std::string>& metadata,
                               const std::vector<SafetensorsEntry>& entries) {
  Json header = {{"__metadata__", metadata}};
  for (const SafetensorsEntry& entry : entries) {
    header[entry.name] = {{"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = dump_json(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  ByteWriter writer;
  writer.write(uint64_t{text.size()});
  writer.write_bytes(as_byte_span(text));
  return writer.take();
}

}  // namespace kvpack
