// SPDX-License-Identifier: Apache-2.0
#include "codec/plane_parameters.h"

#include <fmt/format.h>

#include <cmath>

#include "codec/entropy_tables.h"

namespace kvpack {
namespace {

enum : uint8_t { kCodingLossless = 0, kCodingQuantized = 1 };

// Steps and scales are normal numbers far from overflow, so that no product in the decoder is NaN.
bool is_sane_scale(float value) { return std::isfinite(value) && value >= 1e-30f && value <= 1e30f; }

Result<HeadMatrix> read_matrix(ByteReader& in, uint32_t head_dim) {
  HeadMatrix matrix;
  KVPACK_ASSIGN_OR_RETURN(uint64_t components, in.read_varint("component count"));
  if (components > head_dim) return corrupt(fmt::format("{} components for head_dim {}", components, head_dim));
  matrix.components = static_cast<uint32_t>(components);
  for (uint32_t k = 0; k < matrix.components; ++k) {
    KVPACK_ASSIGN_OR_RETURN(float scale, in.read<float>("matrix scale"));
    if (!is_sane_scale(scale)) return corrupt(fmt::format("matrix scale {} of component {}", scale, k));
    matrix.scale.push_back(scale);
  }
  KVPACK_ASSIGN_OR_RETURN(ByteSpan rows, in.take(components * head_dim, "matrix rows"));
  const auto* first = reinterpret_cast<const int8_t*>(rows.data());
  matrix.rows.assign(first, first + rows.size());
  return matrix;
}

// The first rows of the profile's basis.
Result<HeadMatrix> read_profile_matrix(ByteReader& in, uint32_t head_dim, const HeadMatrix& basis) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t components, in.read_varint("component count"));
  if (components > basis.components)
    return corrupt(fmt::format("{} components, the profile has {}", components, basis.components));
  return first_components(basis, static_cast<uint32_t>(components), head_dim);
}

Status check_profile(const PlaneParameters& parameters, const PlaneShape& shape, const ProfilePlane* profile) {
  if (parameters.transform != TransformKind::kProfile) return {};
  if (profile == nullptr) return unsupported("this plane needs a profile");
  if (profile->kv_heads != shape.kv_heads || profile->head_dim != shape.head_dim) {
    return corrupt(fmt::format("the profile has {} heads of {}, the plane {} of {}", profile->kv_heads,
                               profile->head_dim, shape.kv_heads, shape.head_dim));
  }
  return {};
}

}  // namespace

HeadMatrix first_components(const HeadMatrix& matrix, uint32_t components, uint32_t head_dim) {
  HeadMatrix first;
  first.components = components;
  first.scale.assign(matrix.scale.begin(), matrix.scale.begin() + components);
  first.rows.assign(matrix.rows.begin(), matrix.rows.begin() + size_t{components} * head_dim);
  return first;
}

Status resolve_mean(PlaneParameters& parameters, const PlaneShape& shape, const ProfilePlane* profile) {
  std::vector<float>& values = parameters.mean_values;
  const bool from_profile = parameters.transform == TransformKind::kProfile;
  values = from_profile ? profile->mean : std::vector<float>(shape.channels());
  size_t next = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const float unit = std::ldexp(parameters.step[head], parameters.mean_exponent);
    float* of_head = &values[size_t{head} * shape.head_dim];
    if (!from_profile) {
      for (uint32_t d = 0; d < shape.head_dim; ++d) of_head[d] = static_cast<float>(parameters.mean[next++]) * unit;
      continue;
    }
    const HeadMatrix& matrix = parameters.matrices[head];
    for (uint32_t k = 0; k < matrix.components; ++k) {
      const float weight = static_cast<float>(parameters.mean[next++]) * unit * matrix.scale[k];
      const int8_t* row = &matrix.rows[size_t{k} * shape.head_dim];
      for (uint32_t d = 0; d < shape.head_dim; ++d) of_head[d] += weight * static_cast<float>(row[d]);
    }
  }
  for (size_t c = 0; c < values.size(); ++c) {
    if (!std::isfinite(values[c])) return corrupt(fmt::format("mean of channel {} is not finite", c));
  }
  return {};
}

Status resolve_weights(PlaneParameters& parameters, const PlaneShape& shape, const ProfilePlane* profile) {
  parameters.weights.clear();
  if (!has_matrix(parameters.transform)) return {};
  const bool from_profile = parameters.transform == TransformKind::kProfile;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const HeadMatrix& matrix = parameters.matrices[head];
    const float unit = weight_unit(from_profile ? profile->basis[head] : matrix);
    if (!is_sane_scale(parameters.step[head] * unit))
      return corrupt(fmt::format("step {} and matrix unit {} of head {}", parameters.step[head], unit, head));
    parameters.weights.push_back(paired_weights(matrix, shape.head_dim, unit));
  }
  return {};
}

void write_plane_parameters(const PlaneParameters& parameters, ByteWriter& out) {
  out.write<uint8_t>(parameters.lossless ? kCodingLossless : kCodingQuantized);
  if (parameters.lossless) return;
  out.write(static_cast<uint8_t>(parameters.levels));
  out.write(static_cast<uint8_t>(parameters.transform));
  out.write(static_cast<uint8_t>(parameters.low_rank));
  out.write(static_cast<int8_t>(parameters.mean_exponent));
  out.write_varint(static_cast<uint64_t>(parameters.scale_offset));
  for (const float step : parameters.step) out.write(step);
  for (const HeadMatrix& matrix : parameters.matrices) {
    out.write_varint(matrix.components);
    if (parameters.transform == TransformKind::kProfile) continue;
    for (const float scale : matrix.scale) out.write(scale);
    out.write_bytes(std::as_bytes(std::span(matrix.rows)));
  }
  for (const int32_t mean : parameters.mean) out.write_signed_varint(mean);
  for (const auto& head_classes : parameters.classes) out.write_bytes(std::as_bytes(std::span(head_classes)));
}

Result<PlaneParameters> read_plane_parameters(ByteSpan bytes, const PlaneShape& shape, const ProfilePlane* profile) {
  ByteReader in(bytes);
  PlaneParameters parameters;
  KVPACK_ASSIGN_OR_RETURN(uint8_t coding, in.read<uint8_t>("plane coding"));
  if (coding == kCodingLossless) {
    parameters.lossless = true;
    if (!in.at_end()) return corrupt(fmt::format("{} bytes after lossless plane parameters", in.remaining()));
    return parameters;
  }
  if (coding != kCodingQuantized) return unsupported(fmt::format("plane coding {}", coding));
  KVPACK_ASSIGN_OR_RETURN(parameters.levels, in.read<uint8_t>("levels"));
  KVPACK_ASSIGN_OR_RETURN(uint8_t transform, in.read<uint8_t>("transform"));
  KVPACK_ASSIGN_OR_RETURN(parameters.low_rank, in.read<uint8_t>("low rank"));
  KVPACK_ASSIGN_OR_RETURN(parameters.mean_exponent, in.read<int8_t>("mean exponent"));
  KVPACK_ASSIGN_OR_RETURN(uint64_t offset, in.read_varint("scale offset"));
  if (parameters.levels < 1 || parameters.levels > kMaxLevels)
    return corrupt(fmt::format("{} levels", parameters.levels));
  if (transform > static_cast<uint8_t>(TransformKind::kProfile))
    return unsupported(fmt::format("transform {}", transform));
  parameters.transform = static_cast<TransformKind>(transform);
  if (parameters.low_rank > kMaxLowRank) return corrupt(fmt::format("low rank {}", parameters.low_rank));
  if (offset > kMaxScaleOffset) return corrupt(fmt::format("scale offset {}", offset));
  parameters.scale_offset = static_cast<int>(offset);
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    KVPACK_ASSIGN_OR_RETURN(float step, in.read<float>("step"));
    if (!is_sane_scale(step)) return corrupt(fmt::format("step {} of head {}", step, head));
    parameters.step.push_back(step);
  }
  KVPACK_RETURN_IF_ERROR(check_profile(parameters, shape, profile));
  uint64_t means = shape.channels();
  if (has_matrix(parameters.transform)) {
    const bool stored = parameters.transform == TransformKind::kMatrix;
    if (!stored) means = 0;
    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
      KVPACK_ASSIGN_OR_RETURN(HeadMatrix matrix, stored
                                                     ? read_matrix(in, shape.head_dim)
                                                     : read_profile_matrix(in, shape.head_dim, profile->basis[head]));
      if (!stored) means += matrix.components;
      parameters.matrices.push_back(std::move(matrix));
    }
  }
  for (uint64_t i = 0; i < means; ++i) {
    KVPACK_ASSIGN_OR_RETURN(int64_t mean, in.read_signed_varint("mean"));
    if (mean > INT32_MAX || mean < -INT32_MAX) return corrupt(fmt::format("mean {} of number {}", mean, i));
    parameters.mean.push_back(static_cast<int32_t>(mean));
  }
  KVPACK_RETURN_IF_ERROR(resolve_mean(parameters, shape, profile));
  KVPACK_RETURN_IF_ERROR(resolve_weights(parameters, shape, profile));
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan raw, in.take(parameters.components(head, shape.head_dim), "classes"));
    const auto* first = reinterpret_cast<const uint8_t*>(raw.data());
    parameters.classes.emplace_back(first, first + raw.size());
    for (const uint8_t class_byte : parameters.classes.back()) {
      if (class_byte > 2 * kClassScales) return corrupt(fmt::format("reference class {}", class_byte));
    }
  }
  if (!in.at_end()) return corrupt(fmt::format("{} bytes after plane parameters", in.remaining()));
  return parameters;
}

}  // namespace kvpack
