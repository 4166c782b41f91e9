// SPDX-License-Identifier: Apache-2.0
#include "net/engine/cache_layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpack {
namespace {

// Streams, V and blocks, from a llama.cpp container.
Status add_llama_layout(ByteSpan container, CacheLayout& layout) {
  KVPACK_ASSIGN_OR_RETURN(const LlamaContainer llama, read_llama_container(container, UINT64_MAX));
  layout.from_llama = true;
  layout.blocks = llama.state.shapes();
  uint32_t filled = 0;
  for (const LlamaBlock& block : llama.state.blocks) {
    if (block.shape.kind != LlamaBlockKind::kKv || block.streams.empty()) continue;
    layout.streams = static_cast<uint32_t>(block.streams.size());
    filled = 0;
    for (uint32_t stream = 0; stream < layout.streams; ++stream) {
      if (block.streams[stream].cells == 0) continue;
      ++filled;
      layout.stream = stream;
      layout.transposed_v = block.streams[stream].transposed_v;
    }
  }
  if (filled > 1) return invalid_argument(fmt::format("the state holds {} sequences, a slot takes one", filled));
  return {};
}

// The type of all planes of one side; unset if they differ or there are none.
std::optional<DType> type_of(const CacheLayout& layout, Side side) {
  std::optional<DType> type;
  for (const PlaneShape& plane : layout.planes) {
    if (plane.side != side) continue;
    if (type && *type != plane.dtype) return std::nullopt;
    type = plane.dtype;
  }
  return type;
}

Status check_planes(const CacheLayout& context, const CacheLayout& engine) {
  if (context.from_llama && context.blocks != engine.blocks) {
    return invalid_argument("the context's state has other blocks than the engine's: another kind of memory");
  }
  if (context.planes.size() != engine.planes.size()) {
    return invalid_argument(fmt::format("the context has {} planes of keys and values, the engine's cache {}",
                                        context.planes.size(), engine.planes.size()));
  }
  for (size_t p = 0; p < context.planes.size(); ++p) {
    const PlaneShape& ours = context.planes[p];
    const PlaneShape& theirs = engine.planes[p];
    if (ours.side == theirs.side && ours.channels() == theirs.channels() && ours.token_set == theirs.token_set)
      continue;
    return invalid_argument(fmt::format("plane {}: the context has {} of {} channels, the engine's cache {} of {}", p,
                                        side_name(ours.side), ours.channels(), side_name(theirs.side),
                                        theirs.channels()));
  }
  return {};
}

// What the planes of one side have to become; unset: they may stay.
Result<std::optional<DType>> new_type(const CacheLayout& context, const CacheLayout& engine, Side side,
                                      bool requantize) {
  const auto ours = type_of(context, side);
  const auto theirs = type_of(engine, side);
  if (!theirs || (context.from_llama && ours == theirs)) return std::optional<DType>();
  if (!context.from_llama || requantize) return theirs;
  return invalid_argument(
      fmt::format("the context's {} cache is {}, the engine's {}: it was saved with another cache "
                  "type (-ct{})",
                  side_name(side), ours ? dtype_name(*ours) : "of several types", dtype_name(*theirs),
                  side == Side::kKey ? 'k' : 'v'));
}

}  // namespace

CacheLayout cache_layout_of(const KvTensor& tensor) {
  CacheLayout layout;
  for (const KvPlane& plane : tensor.planes) {
    layout.planes.push_back({.layer = plane.layer,
                             .side = plane.side,
                             .token_set = plane.token_set,
                             .rope = plane.rope,
                             .kv_heads = plane.view.kv_heads,
                             .head_dim = plane.view.head_dim,
                             .dtype = plane.view.dtype,
                             .hadamard_block = plane.view.hadamard_block});
  }
  return layout;
}

Result<CacheLayout> cache_layout_of(const KvFile& state) {
  if (state.format != KvFileFormat::kLlamaState) return unsupported("the engine's state is no llama.cpp state file");
  CacheLayout layout = cache_layout_of(state.tensor);
  KVPACK_RETURN_IF_ERROR(add_llama_layout(state.container, layout));
  if (layout.planes.empty() && !state.has_opaque_state) return invalid_argument("the engine's state holds no cells");
  return layout;
}

Result<CacheLayout> cache_layout_of(const ArchiveReader& reader, KvFileFormat source_format) {
  CacheLayout layout;
  layout.planes = reader.shape().planes;
  for (const TokenSetShape& set : reader.shape().token_sets) {
    if (set.stream == reader.shape().token_sets[0].stream) continue;
    return invalid_argument("the context holds several sequences, and a slot takes one");
  }
  if (source_format != KvFileFormat::kLlamaState) return layout;
  KVPACK_ASSIGN_OR_RETURN(const Bytes container, reader.section(SectionKind::kContainer));
  KVPACK_RETURN_IF_ERROR(add_llama_layout(container, layout));
  return layout;
}

Result<LlamaLayout> layout_for_engine(const CacheLayout& context, const CacheLayout& engine, bool requantize) {
  KVPACK_RETURN_IF_ERROR(check_planes(context, engine));
  LlamaLayout layout;
  KVPACK_ASSIGN_OR_RETURN(layout.key_type, new_type(context, engine, Side::kKey, requantize));
  KVPACK_ASSIGN_OR_RETURN(layout.value_type, new_type(context, engine, Side::kValue, requantize));
  const bool all = !context.from_llama;
  if (all || context.streams != engine.streams) layout.streams = engine.streams;
  if (all || layout.streams || context.stream != engine.stream) layout.stream = engine.stream;
  if (all || context.transposed_v != engine.transposed_v) layout.transposed_v = engine.transposed_v;
  return layout;
}

}  // namespace kvpack
