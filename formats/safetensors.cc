// SPDX-License-Identifier: Apache-2.0
#include "formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <numeric>

#include "formats/archive.h"
#include "formats/json_text.h"
#include "formats/kv_planes.h"
#include "formats/safetensors_header.h"

namespace kvpack {
namespace {

using PlaneKey = std::pair<uint32_t, Side>;  // layer, side

// "layers.12.key" -> (12, K); unset for names of other tensors.
std::optional<PlaneKey> parse_plane_name(std::string_view name) {
  struct Pattern {
    std::string_view before, after;
    Side side;
  };
  static constexpr Pattern kPatterns[] = {
      {"layers.", ".key", Side::kKey},          {"layers.", ".value", Side::kValue},
      {"layers.", ".keys", Side::kKey},         {"layers.", ".values", Side::kValue},
      {"past_key_values.", ".key", Side::kKey}, {"past_key_values.", ".value", Side::kValue},
      {"key_cache.", "", Side::kKey},           {"value_cache.", "", Side::kValue},
  };
  for (const Pattern& pattern : kPatterns) {
    if (name.size() <= pattern.before.size() + pattern.after.size()) continue;
    if (!name.starts_with(pattern.before) || !name.ends_with(pattern.after)) continue;
    const std::string_view digits =
        name.substr(pattern.before.size(), name.size() - pattern.before.size() - pattern.after.size());
    uint32_t layer = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    if (error == std::errc() && end == digits.data() + digits.size()) return PlaneKey{layer, pattern.side};
  }
  return std::nullopt;
}

Result<DType> plane_dtype(const SafetensorsEntry& entry) {
  if (entry.dtype == "F16") return DType::kF16;
  if (entry.dtype == "BF16") return DType::kBf16;
  if (entry.dtype == "F32") return DType::kF32;
  return unsupported(
      fmt::format("tensor '{}': dtype {}, KV values are read from F16, BF16 and F32", entry.name, entry.dtype));
}

struct FoundPlane {
  const SafetensorsEntry* entry = nullptr;
  MutableKvView view;  // data unset
};
using FoundPlanes = std::map<PlaneKey, FoundPlane>;  // layers ascending, K before V

Result<FoundPlane> describe_plane(const SafetensorsEntry& entry) {
  std::span<const uint64_t> shape = entry.shape;
  if (shape.size() == 4 && shape[0] == 1) shape = shape.subspan(1);
  if (shape.size() != 3) {
    return unsupported(
        fmt::format("tensor '{}': shape [{}], expected [heads, tokens, head_dim], optionally with a 1 in front",
                    entry.name, fmt::join(entry.shape, ", ")));
  }
  if (shape[0] == 0 || shape[0] > kMaxKvHeads || shape[1] == 0 || shape[1] > INT32_MAX || shape[2] == 0 ||
      shape[2] > kMaxHeadDim) {
    return limit_exceeded(
        fmt::format("tensor '{}': shape [{}], allowed are 1 to {} heads, at least one token, head_dim 1 to {}",
                    entry.name, fmt::join(entry.shape, ", "), kMaxKvHeads, kMaxHeadDim));
  }
  FoundPlane plane;
  plane.entry = &entry;
  KVPACK_ASSIGN_OR_RETURN(plane.view.dtype, plane_dtype(entry));
  plane.view.kv_heads = static_cast<uint32_t>(shape[0]);
  plane.view.tokens = static_cast<uint32_t>(shape[1]);
  plane.view.head_dim = static_cast<uint32_t>(shape[2]);
  plane.view.channel_stride = dtype_block_bytes(plane.view.dtype);
  plane.view.token_stride = plane.view.channel_stride * shape[2];
  plane.view.head_stride = plane.view.token_stride * shape[1];
  return plane;
}

Result<FoundPlanes> find_planes(const SafetensorsHeader& header) {
  FoundPlanes planes;
  for (const SafetensorsEntry& entry : header.entries) {
    const auto key = parse_plane_name(entry.name);
    if (!key) continue;
    if (key->first >= kMaxLayers)
      return limit_exceeded(fmt::format("tensor '{}': at most {} layers", entry.name, kMaxLayers));
    KVPACK_ASSIGN_OR_RETURN(FoundPlane plane, describe_plane(entry));
    if (!planes.emplace(*key, plane).second) {
      return corrupt(
          fmt::format("tensor '{}': layer {} has another {} already", entry.name, key->first, side_name(key->second)));
    }
  }
  if (planes.empty()) {
    return unsupported(
        "a safetensors file without KV tensors: expected names like 'layers.0.key', 'key_cache.0' or "
        "'past_key_values.0.key'");
  }
  for (const auto& [key, plane] : planes) {
    if (key.second == Side::kKey) continue;
    const auto partner = planes.find({key.first, Side::kKey});
    if (partner == planes.end() || partner->second.view.tokens != plane.view.tokens) {
      return corrupt(
          fmt::format("tensor '{}': no key tensor with the same {} tokens", plane.entry->name, plane.view.tokens));
    }
  }
  return planes;
}

// A list of integers in the metadata; unset if there is none, or if it is something else.
std::optional<std::vector<int32_t>> read_integers(const SafetensorsHeader& header, const std::string& key) {
  const auto found = header.metadata.find(key);
  if (found == header.metadata.end()) return std::nullopt;
  auto json = parse_json(found->second, kMaxSafetensorsHeaderBytes);
  if (!json.ok() || !json->is_array()) return std::nullopt;
  std::vector<int32_t> numbers;
  for (const Json& number : *json) {
    if (!number.is_number_integer()) return std::nullopt;
    if (number.is_number_unsigned() && number.get<uint64_t>() > INT32_MAX) return std::nullopt;
    const int64_t value = number.get<int64_t>();
    if (value != static_cast<int32_t>(value)) return std::nullopt;
    numbers.push_back(static_cast<int32_t>(value));
  }
  return numbers;
}

Result<std::vector<int32_t>> read_positions(const SafetensorsHeader& header, uint32_t tokens) {
  std::vector<int32_t> positions(tokens);
  for (uint32_t i = 0; i < tokens; ++i) positions[i] = static_cast<int32_t>(i);
  if (!header.metadata.contains("positions")) return positions;
  auto given = read_integers(header, "positions");
  const bool ascending = given && std::is_sorted(given->begin(), given->end(), std::less_equal<>()) &&
                         (given->empty() || given->front() >= 0);
  if (!ascending || given->size() != tokens) {
    return corrupt(fmt::format("metadata 'positions': expected {} ascending positions", tokens));
  }
  return *given;
}

// One token set per token count, the longest first; the others hold its last tokens.
Result<std::vector<TokenSet>> make_token_sets(const SafetensorsHeader& header, const FoundPlanes& planes) {
  std::vector<uint32_t> counts;
  for (const auto& [key, plane] : planes) counts.push_back(plane.view.tokens);
  std::sort(counts.begin(), counts.end(), std::greater<>());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  // Before any memory is asked for: a header alone may say anything.
  const uint64_t tokens = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  if (counts.front() > kMaxTokensPerSet || counts.size() > kMaxTokenSets || tokens > kMaxTokens) {
    return limit_exceeded(fmt::format("safetensors: {} tokens in {} sets, the longest of {}; at most {} in {}, {} each",
                                      tokens, counts.size(), counts.front(), kMaxTokens, kMaxTokenSets,
                                      kMaxTokensPerSet));
  }
  KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> positions, read_positions(header, counts.front()));
  std::vector<TokenSet> sets;
  for (uint32_t count : counts) {
    TokenSet set;
    set.positions.assign(positions.end() - count, positions.end());
    sets.push_back(std::move(set));
  }
  return sets;
}

// Calls visit(set, key, plane) in the order of KvTensor::planes.
template <typename Visit>
Status for_each_plane(const std::vector<TokenSet>& sets, const FoundPlanes& planes, Visit visit) {
  for (uint32_t set = 0; set < sets.size(); ++set) {
    for (const auto& [key, plane] : planes) {
      if (plane.view.tokens == sets[set].positions.size()) KVPACK_RETURN_IF_ERROR(visit(set, key, plane));
    }
  }
  return {};
}

Bytes make_container(ByteSpan file, const SafetensorsHeader& header) {
  ByteWriter writer;
  writer.write_bytes(file.first(header.data_offset));
  for (const SafetensorsEntry& entry : header.entries) {
    if (parse_plane_name(entry.name)) continue;
    writer.write_bytes(file.subspan(header.data_offset + entry.begin, entry.end - entry.begin));
  }
  return writer.take();
}

}  // namespace

bool looks_like_safetensors(ByteSpan bytes) {
  if (bytes.size() < 10) return false;
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  return header_bytes >= 2 && header_bytes <= kMaxSafetensorsHeaderBytes && bytes[8] == std::byte{'{'};
}

Result<KvFile> read_safetensors(std::shared_ptr<const FileBytes> storage, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(SafetensorsHeader header, parse_safetensors_header(*storage));
  const uint64_t data_bytes = storage->size() - header.data_offset;
  if (header.data_bytes != data_bytes) {
    const std::string text =
        fmt::format("safetensors: the tensors end at {} bytes of data, the file has {}", header.data_bytes, data_bytes);
    return header.data_bytes > data_bytes ? truncated(text) : corrupt(text);
  }
  KVPACK_ASSIGN_OR_RETURN(FoundPlanes planes, find_planes(header));
  KvFile file;
  file.format = KvFileFormat::kSafetensors;
  file.container = make_container(*storage, header);
  file.facts = transformers_facts(options);
  KVPACK_ASSIGN_OR_RETURN(file.tensor.token_sets, make_token_sets(header, planes));
  file.tensor.storage = storage;
  const auto add = [&](uint32_t set, const PlaneKey& key, const FoundPlane& found) -> Status {
    MutableKvView view = found.view;
    KvPlane plane{key.first, key.second, set, -1, view};
    plane.view.data = storage->data() + header.data_offset + found.entry->begin;
    KVPACK_RETURN_IF_ERROR(match_facts(options.facts, plane));
    file.tensor.planes.push_back(plane);
    return {};
  };
  KVPACK_RETURN_IF_ERROR(for_each_plane(file.tensor.token_sets, planes, add));
  file.tokens = read_integers(header, "tokens").value_or(std::vector<int32_t>());
  if (options.facts != nullptr) file.assumptions = "keys in transformers' channel order";
  file.description = fmt::format("safetensors, DynamicCache, {} tensors, {} tokens", planes.size(),
                                 file.tensor.token_sets.front().positions.size());
  return file;
}

Result<KvFileLayout> read_safetensors_layout(ByteSpan container, const KvReadOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(SafetensorsHeader header, parse_safetensors_header(container));
  KVPACK_ASSIGN_OR_RETURN(FoundPlanes planes, find_planes(header));
  KvFileLayout layout;
  KVPACK_ASSIGN_OR_RETURN(layout.token_sets, make_token_sets(header, planes));
  if (!checked_add(header.data_offset, header.data_bytes, &layout.bytes)) return corrupt("safetensors: sizes overflow");
  ByteReader others(container, header.data_offset);
  uint64_t other_bytes = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (!parse_plane_name(entry.name)) other_bytes += entry.end - entry.begin;
  }
  if (others.remaining() != other_bytes) {
    return corrupt(
        fmt::format("safetensors container: {} bytes of other tensors, expected {}", others.remaining(), other_bytes));
  }
  layout.pieces.push_back({0, container.first(header.data_offset)});
  for (const SafetensorsEntry& entry : header.entries) {
    if (parse_plane_name(entry.name) || entry.begin == entry.end) continue;
    KVPACK_ASSIGN_OR_RETURN(ByteSpan part, others.take(entry.end - entry.begin, entry.name));
    layout.pieces.push_back({header.data_offset + entry.begin, part});
  }
  const auto add = [&](uint32_t set, const PlaneKey& key, const FoundPlane& found) -> Status {
    KvPlane plane{key.first, key.second, set, -1, found.view};
    KVPACK_RETURN_IF_ERROR(match_facts(options.facts, plane));
    layout.planes.push_back(found.view);
    layout.plane_offsets.push_back(header.data_offset + found.entry->begin);
    return {};
  };
  KVPACK_RETURN_IF_ERROR(for_each_plane(layout.token_sets, planes, add));
  return layout;
}

}  // namespace kvpack
