// SPDX-License-Identifier: Apache-2.0
#include "formats/llama_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace kvpack {
namespace {

struct PlanInput {
  const KvTensor& tensor;
  const LlamaContainer* base;
  const LlamaLayout& layout;
  std::optional<SwaGuard> guard;
};

struct StreamChoice {
  uint32_t count = 1;
  uint32_t index = 0;
  bool moved = false;
};

// Stream `index` of a block with `count` streams, of which `filled` hold cells, under the layout that is asked for.
Result<StreamChoice> choose_stream(uint32_t count, uint32_t index, uint32_t filled, const LlamaLayout& layout) {
  if (!layout.streams && !layout.stream) return StreamChoice{count, index, false};
  const uint32_t streams = layout.streams.value_or(count);
  const uint32_t stream = layout.stream.value_or(index < streams ? index : 0);
  if (stream >= streams) {
    return invalid_argument(fmt::format("stream {} of {}: streams count from 0", stream, streams));
  }
  if (filled > 1 && (streams != count || layout.stream)) {
    return unsupported(
        fmt::format("{} of {} streams hold cells; only a file with one of them can be moved to other "
                    "streams",
                    filled, count));
  }
  return StreamChoice{streams, stream, streams != count || stream != index};
}

std::vector<const KvPlane*> planes_of(const KvTensor& tensor, uint32_t token_set, Side side) {
  std::vector<const KvPlane*> planes;
  for (const KvPlane& plane : tensor.planes) {
    if (plane.token_set == token_set && plane.side == side) planes.push_back(&plane);
  }
  return planes;
}

std::vector<const LlamaPlaneSpec*> specs_of(const LlamaContainer* base, uint32_t token_set, Side side) {
  std::vector<const LlamaPlaneSpec*> specs;
  if (base == nullptr) return specs;
  for (const LlamaPlaneSpec& spec : base->planes.planes) {
    if (spec.token_set == token_set && spec.side == side) specs.push_back(&spec);
  }
  return specs;
}

// The rotation of a plane in its new type. A rotation is only made or undone where the head size is known: a wrong
// block would give the model keys that look valid and are not.
Result<uint32_t> choose_rotation(const PlanInput& in, const KvPlane& plane, const LlamaPlaneSpec* spec, DType dtype) {
  const bool was_quantized = spec != nullptr && dtype_is_quantized(spec->stored.dtype);
  if (was_quantized && dtype_is_quantized(dtype)) return spec->hadamard_block;
  const bool guessed = in.base != nullptr && !in.base->heads_known;
  const bool matters = dtype_is_quantized(dtype) || (was_quantized && spec->hadamard_block > 0);
  if (guessed && matters) {
    return unsupported(
        fmt::format("{} to {}: llama.cpp rotates heads of quantized caches, and the head size of rows "
                    "of {} values is not known; read the file with its model",
                    dtype_name(spec->stored.dtype), dtype_name(dtype), plane.view.channels()));
  }
  return dtype_is_quantized(dtype) ? llama_hadamard_block(plane.side, plane.view.head_dim) : 0;
}

Result<PlannedPlane> plan_plane(const PlanInput& in, const KvPlane& plane, const LlamaPlaneSpec* spec) {
  const TokenSet& set = in.tensor.token_sets[plane.token_set];
  const uint32_t channels = plane.view.channels();
  if (plane.view.tokens != set.positions.size() || (spec != nullptr && spec->stored.row_values != channels)) {
    return invalid_argument(fmt::format("layer {} {}: {} tokens x {} channels, expected {} x {}", plane.layer,
                                        side_name(plane.side), plane.view.tokens, channels, set.positions.size(),
                                        spec != nullptr ? spec->stored.row_values : channels));
  }
  PlannedPlane planned;
  planned.from = &plane;
  const std::optional<DType> asked = plane.side == Side::kKey ? in.layout.key_type : in.layout.value_type;
  planned.dtype = asked.value_or(spec != nullptr ? spec->stored.dtype : DType::kF16);
  if (channels == 0 || channels % dtype_block_values(planned.dtype) != 0) {
    return invalid_argument(fmt::format("layer {} {}: rows of {} values cannot be {}, which needs a multiple of {}",
                                        plane.layer, side_name(plane.side), channels, dtype_name(planned.dtype),
                                        dtype_block_values(planned.dtype)));
  }
  KVPACK_ASSIGN_OR_RETURN(planned.hadamard_block, choose_rotation(in, plane, spec, planned.dtype));
  return planned;
}

Status plan_planes(const PlanInput& in, uint32_t token_set, PlannedStream& stream) {
  for (const Side side : {Side::kKey, Side::kValue}) {
    const auto planes = planes_of(in.tensor, token_set, side);
    const auto specs = specs_of(in.base, token_set, side);
    if (in.base != nullptr && planes.size() != specs.size()) {
      return unsupported(fmt::format("{} of {} layers' {} selected: llama.cpp loads files with all layers only",
                                     planes.size(), specs.size(), side_name(side)));
    }
    for (size_t i = 0; i < planes.size(); ++i) {
      KVPACK_ASSIGN_OR_RETURN(PlannedPlane plane, plan_plane(in, *planes[i], specs.empty() ? nullptr : specs[i]));
      if (side == Side::kValue && stream.transposed_v && dtype_is_quantized(plane.dtype)) {
        return unsupported(
            fmt::format("transposed V of type {}: llama.cpp has quantized V with flash attention only, "
                        "which needs row V",
                        dtype_name(plane.dtype)));
      }
      (side == Side::kKey ? stream.keys : stream.values).push_back(plane);
    }
  }
  if (!stream.values.empty() && stream.values.size() != stream.keys.size()) {
    return unsupported(
        fmt::format("{} layers with keys and {} with values share a context; llama.cpp files have both "
                    "or only keys",
                    stream.keys.size(), stream.values.size()));
  }
  return {};
}

// The container's cells at the positions of `set`, in the container's order.
Result<std::vector<PlannedCell>> select_cells(const TokenSet& set, const TokenSet& base_set, const LlamaStream& stream,
                                              bool ext, std::vector<uint32_t>* row_of_token) {
  const std::vector<LlamaCell> cells = llama_cells(stream, ext);
  std::vector<uint32_t> base_rows;  // [token]
  size_t b = 0;
  for (const int32_t position : set.positions) {
    while (b < base_set.positions.size() && base_set.positions[b] < position) ++b;
    if (b == base_set.positions.size() || base_set.positions[b] != position) {
      return invalid_argument(fmt::format("position {} is not in the file that the container describes", position));
    }
    base_rows.push_back(base_set.row_of_token.empty() ? static_cast<uint32_t>(b) : base_set.row_of_token[b]);
    ++b;
  }
  std::vector<uint32_t> order(base_rows.size());  // [new row] -> token
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t x, uint32_t y) { return base_rows[x] < base_rows[y]; });
  std::vector<PlannedCell> selected;
  row_of_token->resize(order.size());
  for (uint32_t row = 0; row < order.size(); ++row) {
    (*row_of_token)[order[row]] = row;
    const LlamaCell& cell = cells[base_rows[order[row]]];
    selected.push_back({cell.position, cell.record});
  }
  return selected;
}

Status plan_cells(const PlanInput& in, uint32_t token_set, PlannedStream& stream) {
  const TokenSet& set = in.tensor.token_sets[token_set];
  if (in.base != nullptr) {
    const LlamaTokenSetOrigin& origin = in.base->planes.origins[token_set];
    const LlamaBlock& block = in.base->state.blocks[origin.block];
    KVPACK_ASSIGN_OR_RETURN(stream.cells,
                            select_cells(set, in.base->planes.token_sets[token_set], block.streams[origin.stream],
                                         block.shape.ext, &stream.row_of_token));
  } else {
    stream.row_of_token.resize(set.positions.size());
    std::iota(stream.row_of_token.begin(), stream.row_of_token.end(), 0u);
    for (const int32_t position : set.positions) stream.cells.push_back({position, {}});
  }
  if (in.guard && in.guard->token_set == token_set) {
    // Its record is a neighbour's, but for the position; its values stay zero.
    stream.cells.insert(stream.cells.begin(), {in.guard->position, stream.cells.front().record});
    for (uint32_t& row : stream.row_of_token) ++row;
  }
  if (stream.cells.empty() || stream.cells.size() > kMaxLlamaCells) {
    return unsupported(
        fmt::format("{} cells in one stream, possible are 1 to {}", stream.cells.size(), kMaxLlamaCells));
  }
  return {};
}

uint32_t count_filled(const LlamaBlock& block) {
  return static_cast<uint32_t>(
      std::count_if(block.streams.begin(), block.streams.end(), [](const LlamaStream& s) { return s.cells > 0; }));
}

// One block of the container; `token_set` moves on past those that the block takes.
Result<PlannedBlock> plan_base_block(const PlanInput& in, const LlamaBlock& block, uint32_t& token_set) {
  PlannedBlock planned;
  planned.shape = block.shape;
  planned.opaque = block.opaque;
  planned.streams = in.layout.streams.value_or(static_cast<uint32_t>(block.streams.size()));
  for (uint32_t s = 0; s < block.streams.size(); ++s) {
    const LlamaStream& from = block.streams[s];
    if (from.cells == 0) continue;
    KVPACK_ASSIGN_OR_RETURN(const StreamChoice choice, choose_stream(static_cast<uint32_t>(block.streams.size()), s,
                                                                     count_filled(block), in.layout));
    PlannedStream stream;
    stream.new_sequence_id = choice.moved;
    stream.transposed_v = in.layout.transposed_v.value_or(from.transposed_v);
    if (from.keys.empty()) {  // cells of a block without layers
      for (const LlamaCell& cell : llama_cells(from, block.shape.ext)) {
        stream.cells.push_back({cell.position, cell.record});
      }
    } else {
      KVPACK_RETURN_IF_ERROR(plan_cells(in, token_set, stream));
      KVPACK_RETURN_IF_ERROR(plan_planes(in, token_set, stream));
      ++token_set;
    }
    planned.filled.emplace(choice.index, std::move(stream));
  }
  return planned;
}

// State that kvpack does not understand belongs to exactly these cells, streams and types.
Status check_opaque(const PlanInput& in) {
  const LlamaState& state = in.base->state;
  bool selects = false;
  bool bare_cells = false;
  for (size_t i = 0; i < in.tensor.token_sets.size(); ++i) {
    selects = selects || in.tensor.token_sets[i].positions.size() != in.base->planes.token_sets[i].positions.size();
  }
  for (const LlamaBlock& block : state.blocks) {
    for (const LlamaStream& stream : block.streams)
      bare_cells = bare_cells || (stream.cells > 0 && stream.keys.empty());
  }
  if (selects && (state.has_opaque_state() || bare_cells)) {
    return unsupported(
        fmt::format("a {} state is of its whole context: no part of it can be written as a llama.cpp "
                    "file",
                    llama_module_name(state, "")));
  }
  if (state.has_opaque_state() &&
      (in.layout.streams || in.layout.stream || in.layout.key_type || in.layout.value_type)) {
    return unsupported(
        fmt::format("a {} state holds data beside K and V that is kept as it is: only its payload and V "
                    "layout can be converted",
                    llama_module_name(state, "")));
  }
  return {};
}

Status plan_from_container(const PlanInput& in, LlamaPlan& plan) {
  const LlamaState& state = in.base->state;
  if (in.tensor.token_sets.size() != in.base->planes.token_sets.size()) {
    return unsupported(
        fmt::format("{} of the file's {} KV blocks are left by the selection; llama.cpp loads files "
                    "with all of them only",
                    in.tensor.token_sets.size(), in.base->planes.token_sets.size()));
  }
  KVPACK_RETURN_IF_ERROR(check_opaque(in));
  plan.session = state.session;
  plan.architecture = state.architecture;
  plan.trailing = state.trailing;
  uint32_t token_set = 0;
  for (const LlamaBlock& block : state.blocks) {
    KVPACK_ASSIGN_OR_RETURN(PlannedBlock planned, plan_base_block(in, block, token_set));
    plan.blocks.push_back(std::move(planned));
  }
  return {};
}

// Token sets of one stream are blocks (full layers first), token sets of several streams are one block.
Status plan_from_tensor(const PlanInput& in, LlamaPlan& plan) {
  const auto& sets = in.tensor.token_sets;
  const bool one_stream =
      std::all_of(sets.begin(), sets.end(), [&](const TokenSet& set) { return set.stream == sets[0].stream; });
  if (sets.empty() || (one_stream && sets.size() > 2)) {
    return unsupported(
        fmt::format("{} token sets: llama.cpp files hold one, or two with a sliding window", sets.size()));
  }
  std::vector<uint32_t> order(sets.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return one_stream && sets[a].positions.size() > sets[b].positions.size();
  });
  const auto filled = one_stream ? 1u : static_cast<uint32_t>(sets.size());
  uint32_t streams = 1;
  for (const TokenSet& set : sets) streams = std::max(streams, set.stream + 1);
  for (const uint32_t index : order) {
    KVPACK_ASSIGN_OR_RETURN(const StreamChoice choice, choose_stream(streams, sets[index].stream, filled, in.layout));
    PlannedStream stream;
    stream.transposed_v = in.layout.transposed_v.value_or(false);
    KVPACK_RETURN_IF_ERROR(plan_cells(in, index, stream));
    KVPACK_RETURN_IF_ERROR(plan_planes(in, index, stream));
    if (one_stream || plan.blocks.empty()) plan.blocks.emplace_back();
    PlannedBlock& block = plan.blocks.back();
    block.streams = choice.count;
    block.shape.has_v = !stream.values.empty();
    block.filled.emplace(choice.index, std::move(stream));
  }
  return {};
}

Status plan_payload(const std::vector<int32_t>& tokens, const LlamaContainer* base, const LlamaLayout& layout,
                    LlamaPlan& plan) {
  const bool was_packed = base != nullptr && base->state.packed_payload;
  plan.packed_payload = layout.packed_payload.value_or(was_packed);
  if (plan.session && plan.packed_payload) {
    return invalid_argument("a session file lists its tokens plainly: it cannot have a packed payload");
  }
  plan.tokens = tokens.empty() && base != nullptr ? base->state.tokens : tokens;
  if (base == nullptr) return {};
  if (plan.packed_payload == was_packed && plan.tokens == base->state.tokens) {
    plan.payload = base->state.payload;
  } else if (base->state.media > 0) {
    return unsupported(
        fmt::format("the token payload refers to {} media chunks: it can neither be cut nor written as "
                    "a plain list",
                    base->state.media));
  }
  return {};
}

}  // namespace

Result<LlamaPlan> plan_llama_state(const KvTensor& tensor, const std::vector<int32_t>& tokens,
                                   const LlamaContainer* base, const LlamaLayout& layout) {
  for (const KvPlane& plane : tensor.planes) {
    if (plane.token_set >= tensor.token_sets.size()) {
      return invalid_argument(
          fmt::format("layer {}: token set {} of {}", plane.layer, plane.token_set, tensor.token_sets.size()));
    }
  }
  if (layout.streams && (*layout.streams < 1 || *layout.streams > kMaxLlamaStreams)) {
    return invalid_argument(fmt::format("{} streams, possible are 1 to {}", *layout.streams, kMaxLlamaStreams));
  }
  PlanInput in{tensor, base, layout, std::nullopt};
  if (layout.swa_guard_cell) in.guard = find_swa_guard(tensor, base);
  LlamaPlan plan;
  KVPACK_RETURN_IF_ERROR(base != nullptr ? plan_from_container(in, plan) : plan_from_tensor(in, plan));
  KVPACK_RETURN_IF_ERROR(plan_payload(tokens, base, layout, plan));
  return plan;
}

}  // namespace kvpack
