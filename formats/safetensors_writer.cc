// SPDX-License-Identifier: Apache-2.0
// Writes what safetensors.h reads: "layers.N.key" / "layers.N.value" in layer order, tokens and positions as metadata.
#include <fmt/format.h>

#include <algorithm>

#include "formats/json_text.h"
#include "formats/kv_file.h"
#include "formats/kv_planes.h"
#include "formats/safetensors_header.h"

namespace kvpack {
namespace {

struct PlannedPlane {
  const KvPlane* plane = nullptr;
  MutableKvView view;  // data unset
  uint64_t begin = 0;
  uint64_t bytes = 0;
};

Result<std::string_view> dtype_text(DType dtype) {
  if (dtype == DType::kF16) return std::string_view("F16");
  if (dtype == DType::kBf16) return std::string_view("BF16");
  if (dtype == DType::kF32) return std::string_view("F32");
  return unsupported(fmt::format("safetensors holds f16, bf16 or f32, not {}", dtype_name(dtype)));
}

std::string plane_name(const KvPlane& plane) {
  return fmt::format("layers.{}.{}", plane.layer, plane.side == Side::kKey ? "key" : "value");
}

Result<std::vector<PlannedPlane>> plan_planes(const KvTensor& tensor, std::optional<DType> dtype) {
  std::vector<PlannedPlane> plan;
  for (const KvPlane& plane : tensor.planes) plan.push_back({.plane = &plane, .view = {}});
  std::stable_sort(plan.begin(), plan.end(), [](const PlannedPlane& a, const PlannedPlane& b) {
    return std::pair(a.plane->layer, a.plane->side) < std::pair(b.plane->layer, b.plane->side);
  });
  uint64_t offset = 0;
  for (size_t i = 0; i < plan.size(); ++i) {
    const KvPlane& plane = *plan[i].plane;
    if (i > 0 && plan[i - 1].plane->layer == plane.layer && plan[i - 1].plane->side == plane.side) {
      return unsupported(fmt::format("layer {} {} twice (several streams?): safetensors holds one sequence",
                                     plane.layer, side_name(plane.side)));
    }
    MutableKvView& view = plan[i].view;
    view.dtype = dtype.value_or(plain_dtype(plane.view.dtype));
    KVPACK_RETURN_IF_ERROR(dtype_text(view.dtype));
    view.tokens = plane.view.tokens;
    view.kv_heads = plane.view.kv_heads;
    view.head_dim = plane.view.head_dim;
    view.channel_stride = dtype_block_bytes(view.dtype);
    view.token_stride = view.channel_stride * view.head_dim;
    view.head_stride = view.token_stride * view.tokens;
    plan[i].begin = offset;
    plan[i].bytes = view.head_stride * view.kv_heads;
    offset += plan[i].bytes;
  }
  return plan;
}

// The positions of the longest token set; shorter ones must be its last tokens.
Result<std::vector<int32_t>> common_positions(const KvTensor& tensor) {
  std::vector<int32_t> longest;
  for (const TokenSet& set : tensor.token_sets) {
    if (set.positions.size() > longest.size()) longest = set.positions;
  }
  for (const TokenSet& set : tensor.token_sets) {
    if (!std::equal(set.positions.rbegin(), set.positions.rend(), longest.rbegin())) {
      return unsupported("layers with fewer tokens that are not the most recent ones cannot be written to safetensors");
    }
  }
  return longest;
}

bool counts_from_zero(const std::vector<int32_t>& positions) {
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] != static_cast<int32_t>(i)) return false;
  }
  return true;
}

Result<Bytes> make_header(const std::vector<PlannedPlane>& plan, const std::vector<int32_t>& tokens,
                          const std::vector<int32_t>& positions) {
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (!tokens.empty()) metadata["tokens"] = dump_json(Json(tokens));
  if (!counts_from_zero(positions)) metadata["positions"] = dump_json(Json(positions));
  std::vector<SafetensorsEntry> entries;
  for (const PlannedPlane& planned : plan) {
    KVPACK_ASSIGN_OR_RETURN(std::string_view dtype, dtype_text(planned.view.dtype));
    entries.push_back({plane_name(*planned.plane),
                       std::string(dtype),
                       {planned.view.kv_heads, planned.view.tokens, planned.view.head_dim},
                       planned.begin,
                       planned.begin + planned.bytes});
  }
  return write_safetensors_header(metadata, entries);
}

}  // namespace

Result<Bytes> write_safetensors(const KvTensor& tensor, const std::vector<int32_t>& tokens,
                                std::optional<DType> dtype) {
  if (tensor.planes.empty()) return invalid_argument("no KV values to write");
  KVPACK_ASSIGN_OR_RETURN(std::vector<PlannedPlane> plan, plan_planes(tensor, dtype));
  KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> positions, common_positions(tensor));
  KVPACK_ASSIGN_OR_RETURN(Bytes bytes, make_header(plan, tokens, positions));
  const uint64_t data_offset = bytes.size();
  bytes.resize(data_offset + plan.back().begin + plan.back().bytes);
  for (PlannedPlane& planned : plan) {
    planned.view.data = bytes.data() + data_offset + planned.begin;
    copy_plane(planned.plane->view, planned.view);
  }
  return bytes;
}

}  // namespace kvpack
