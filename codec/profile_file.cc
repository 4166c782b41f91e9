// SPDX-License-Identifier: Apache-2.0
#include "codec/profile_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <span>

#include "formats/checksum.h"
#include "formats/model_facts.h"
#include "formats/safetensors.h"
#include "formats/safetensors_header.h"

namespace kvpack {
namespace {

constexpr std::string_view kVersion = "1";
constexpr uint64_t kMaxMetadataText = 4096;
constexpr uint32_t kTokenFeatures = 5;  // beside the key itself: TokenWeightModel

std::string plane_prefix(uint32_t layer, Side side) {
  return fmt::format("layers.{}.{}.", layer, side == Side::kKey ? "key" : "value");
}

// ---- Writing ----

class TensorList {
 public:
  template <typename T>
  void add(std::string name, std::vector<uint64_t> shape, const std::vector<T>& values) {
    const ByteSpan bytes = std::as_bytes(std::span(values));
    entries_.push_back(
        {std::move(name), sizeof(T) == 1 ? "I8" : "F32", std::move(shape), offset_, offset_ + bytes.size()});
    data_.insert(data_.end(), bytes.begin(), bytes.end());
    offset_ += bytes.size();
  }
  Bytes finish(const std::map<std::string, std::string>& metadata) const {
    Bytes file = write_safetensors_header(metadata, entries_);
    file.insert(file.end(), data_.begin(), data_.end());
    return file;
  }

 private:
  std::vector<SafetensorsEntry> entries_;
  Bytes data_;
  uint64_t offset_ = 0;
};

void add_plane(const ProfilePlane& plane, TensorList& tensors) {
  std::vector<float> scale;
  std::vector<int8_t> rows;
  for (const HeadMatrix& basis : plane.basis) {
    scale.insert(scale.end(), basis.scale.begin(), basis.scale.end());
    rows.insert(rows.end(), basis.rows.begin(), basis.rows.end());
  }
  const std::string prefix = plane_prefix(plane.layer, plane.side);
  const uint64_t heads = plane.kv_heads, dim = plane.head_dim;
  tensors.add(prefix + "mean", {heads, dim}, plane.mean);
  tensors.add(prefix + "sensitivity", {heads}, plane.sensitivity);
  tensors.add(prefix + "deviation", {heads, dim}, plane.deviation);
  tensors.add(prefix + "scale", {heads, dim}, scale);
  tensors.add(prefix + "rows", {heads, dim, dim}, rows);
}

// ---- Reading ----

struct ProfileTensors {
  ByteSpan data;
  std::map<std::string, SafetensorsEntry, std::less<>> entries;
};

template <typename T>
Result<std::vector<T>> take_tensor(ProfileTensors& tensors, const std::string& name,
                                   const std::vector<uint64_t>& shape) {
  const auto found = tensors.entries.find(name);
  if (found == tensors.entries.end()) return corrupt(fmt::format("tensor '{}' is missing", name));
  const SafetensorsEntry& entry = found->second;
  const std::string_view dtype = sizeof(T) == 1 ? "I8" : "F32";
  if (entry.dtype != dtype || entry.shape != shape) {
    std::string wanted, given;
    for (uint64_t dim : shape) wanted += fmt::format("[{}]", dim);
    for (uint64_t dim : entry.shape) given += fmt::format("[{}]", dim);
    return corrupt(fmt::format("tensor '{}': {} {}, expected {} {}", name, entry.dtype, given, dtype, wanted));
  }
  std::vector<T> values((entry.end - entry.begin) / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensors.data.data() + entry.begin, entry.end - entry.begin);
  tensors.entries.erase(found);
  return values;
}

Result<std::vector<float>> take_numbers(ProfileTensors& tensors, const std::string& name,
                                        const std::vector<uint64_t>& shape, bool above_zero) {
  KVPACK_ASSIGN_OR_RETURN(std::vector<float> values, take_tensor<float>(tensors, name, shape));
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && (!above_zero || values[i] > 0)) continue;
    return corrupt(fmt::format("tensor '{}', number {}: {}, expected {}", name, i, values[i],
                               above_zero ? "a finite number above 0" : "a finite number"));
  }
  return values;
}

Result<ProfilePlane> take_plane(ProfileTensors& tensors, uint32_t layer, Side side) {
  const std::string prefix = plane_prefix(layer, side);
  const auto rows_entry = tensors.entries.find(prefix + "rows");
  if (rows_entry == tensors.entries.end()) return corrupt(fmt::format("tensor '{}rows' is missing", prefix));
  const std::vector<uint64_t> shape = rows_entry->second.shape;
  if (shape.size() != 3 || shape[1] != shape[2]) {
    return corrupt(fmt::format("tensor '{}rows': expected [kv_heads][head_dim][head_dim]", prefix));
  }
  if (shape[0] == 0 || shape[0] > kMaxKvHeads || shape[1] == 0 || shape[1] > kMaxHeadDim) {
    return limit_exceeded(fmt::format("tensor '{}rows': {} heads of {} channels, allowed are 1 to {} and 1 to {}",
                                      prefix, shape[0], shape[1], kMaxKvHeads, kMaxHeadDim));
  }
  const uint64_t heads = shape[0], dim = shape[1];
  ProfilePlane plane;
  plane.layer = layer;
  plane.side = side;
  plane.kv_heads = static_cast<uint32_t>(heads);
  plane.head_dim = static_cast<uint32_t>(dim);
  KVPACK_ASSIGN_OR_RETURN(plane.mean, take_numbers(tensors, prefix + "mean", {heads, dim}, false));
  KVPACK_ASSIGN_OR_RETURN(plane.sensitivity, take_numbers(tensors, prefix + "sensitivity", {heads}, true));
  KVPACK_ASSIGN_OR_RETURN(plane.deviation, take_numbers(tensors, prefix + "deviation", {heads, dim}, false));
  KVPACK_ASSIGN_OR_RETURN(const auto scale, take_numbers(tensors, prefix + "scale", {heads, dim}, true));
  KVPACK_ASSIGN_OR_RETURN(const auto rows, take_tensor<int8_t>(tensors, prefix + "rows", shape));
  for (uint64_t head = 0; head < heads; ++head) {
    HeadMatrix basis;
    basis.components = plane.head_dim;
    basis.scale.assign(scale.begin() + static_cast<ptrdiff_t>(head * dim),
                       scale.begin() + static_cast<ptrdiff_t>((head + 1) * dim));
    basis.rows.assign(rows.begin() + static_cast<ptrdiff_t>(head * dim * dim),
                      rows.begin() + static_cast<ptrdiff_t>((head + 1) * dim * dim));
    plane.basis.push_back(std::move(basis));
  }
  return plane;
}

// "layers.12.key.rows" -> (12, key); unset for other names.
std::optional<std::pair<uint32_t, Side>> plane_of(std::string_view name) {
  constexpr std::string_view kBefore = "layers.";
  if (!name.starts_with(kBefore)) return std::nullopt;
  uint32_t layer = 0;
  const auto [end, error] = std::from_chars(name.data() + kBefore.size(), name.data() + name.size(), layer);
  if (error != std::errc()) return std::nullopt;
  for (Side side : {Side::kKey, Side::kValue}) {
    if (name == plane_prefix(layer, side) + "rows") return std::pair(layer, side);
  }
  return std::nullopt;
}

Result<TokenWeightModel> take_token_weights(ProfileTensors& tensors, const ProfilePlane& keys) {
  TokenWeightModel model;
  model.layer = keys.layer;
  model.kv_heads = keys.kv_heads;
  model.head_dim = keys.head_dim;
  KVPACK_ASSIGN_OR_RETURN(model.weights,
                          take_numbers(tensors, fmt::format("layers.{}.token_weights", keys.layer),
                                       {keys.kv_heads, uint64_t{keys.head_dim} + kTokenFeatures}, false));
  return model;
}

Status take_names(const SafetensorsHeader& header, Profile& profile) {
  const auto version = header.metadata.find("kvpack.profile");
  if (version == header.metadata.end()) return not_kvpack("not a profile: a safetensors file of another kind");
  if (version->second != kVersion) {
    return unsupported(
        fmt::format("profile version '{}', this kvpack reads version {}", version->second.substr(0, 32), kVersion));
  }
  const std::pair<const char*, std::string*> fields[] = {{"kvpack.model.name", &profile.model_name},
                                                         {"kvpack.model.architecture", &profile.model_architecture},
                                                         {"kvpack.model.fingerprint", &profile.model_fingerprint},
                                                         {"kvpack.method", &profile.method}};
  for (const auto& [key, text] : fields) {
    const auto found = header.metadata.find(key);
    if (found == header.metadata.end()) return corrupt(fmt::format("metadata '{}' is missing", key));
    if (found->second.size() > kMaxMetadataText) {
      return limit_exceeded(
          fmt::format("metadata '{}': {} bytes, at most {}", key, found->second.size(), kMaxMetadataText));
    }
    *text = found->second;
  }
  return {};
}

Result<Profile> parse_profile(ByteSpan bytes) {
  if (bytes.size() > kMaxProfileBytes) {
    return limit_exceeded(fmt::format("a profile of {} bytes, at most {}", bytes.size(), kMaxProfileBytes));
  }
  if (!looks_like_safetensors(bytes)) return not_kvpack("not a profile: not a safetensors file");
  KVPACK_ASSIGN_OR_RETURN(const SafetensorsHeader header, parse_safetensors_header(bytes));
  Profile profile;
  KVPACK_RETURN_IF_ERROR(take_names(header, profile));
  const uint64_t data_bytes = bytes.size() - header.data_offset;
  if (data_bytes < header.data_bytes) {
    return truncated(fmt::format("{} bytes of tensors, the header says {}", data_bytes, header.data_bytes));
  }
  if (data_bytes > header.data_bytes) {
    return corrupt(fmt::format("{} bytes after the last tensor", data_bytes - header.data_bytes));
  }
  ProfileTensors tensors{bytes.subspan(header.data_offset), {}};
  std::map<std::pair<uint32_t, Side>, bool> planes;  // by layer, key before value
  for (const SafetensorsEntry& entry : header.entries) {
    if (const auto plane = plane_of(entry.name)) planes[*plane] = true;
    tensors.entries[entry.name] = entry;
  }
  if (planes.empty()) return corrupt("no 'layers.N.key.rows': a profile without planes");
  for (const auto& [plane, _] : planes) {
    if (plane.first >= kMaxLayers) {
      return limit_exceeded(fmt::format("layer {}, at most {} layers", plane.first, kMaxLayers));
    }
    KVPACK_ASSIGN_OR_RETURN(ProfilePlane taken, take_plane(tensors, plane.first, plane.second));
    const std::string weights = fmt::format("layers.{}.token_weights", plane.first);
    if (plane.second == Side::kKey && tensors.entries.contains(weights)) {
      KVPACK_ASSIGN_OR_RETURN(TokenWeightModel model, take_token_weights(tensors, taken));
      profile.token_weights.push_back(std::move(model));
    }
    profile.planes.push_back(std::move(taken));
  }
  if (!tensors.entries.empty()) {
    return corrupt(fmt::format("tensor '{}' has no meaning in a profile", tensors.entries.begin()->first));
  }
  return profile;
}

}  // namespace

Bytes write_profile(const Profile& profile) {
  TensorList tensors;
  for (const ProfilePlane& plane : profile.planes) add_plane(plane, tensors);
  for (const TokenWeightModel& model : profile.token_weights) {
    tensors.add(fmt::format("layers.{}.token_weights", model.layer),
                {model.kv_heads, uint64_t{model.head_dim} + kTokenFeatures}, model.weights);
  }
  return tensors.finish({{"kvpack.profile", std::string(kVersion)},
                         {"kvpack.model.name", profile.model_name},
                         {"kvpack.model.architecture", profile.model_architecture},
                         {"kvpack.model.fingerprint", profile.model_fingerprint},
                         {"kvpack.method", profile.method}});
}

Result<Profile> read_profile(ByteSpan bytes, std::string_view name) {
  auto profile = parse_profile(bytes);
  if (!profile.ok()) return profile.error().within(name);
  return profile;
}

std::string profile_hash(ByteSpan bytes) { return xxh3_128_hex(bytes); }

}  // namespace kvpack
