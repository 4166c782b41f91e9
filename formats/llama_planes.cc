// SPDX-License-Identifier: Apache-2.0
// From blocks to planes: which layer, heads and rotation each stored tensor has. The file holds layers in ascending
// order without their indices, so a model's facts supply them; without facts layers are counted as they come.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "formats/llama_state.h"

namespace kvpack {
namespace {

TokenSet token_set_of(const LlamaStream& stream, bool ext, uint32_t index) {
  const std::vector<LlamaCell> cells = llama_cells(stream, ext);
  const auto before = [&](uint32_t a, uint32_t b) { return cells[a].position < cells[b].position; };
  TokenSet set;
  set.stream = index;
  set.row_of_token.resize(cells.size());
  std::iota(set.row_of_token.begin(), set.row_of_token.end(), 0u);
  std::stable_sort(set.row_of_token.begin(), set.row_of_token.end(), before);
  for (const uint32_t row : set.row_of_token) set.positions.push_back(cells[row].position);
  if (std::is_sorted(set.row_of_token.begin(), set.row_of_token.end())) set.row_of_token.clear();
  return set;
}

void add_stream_planes(LlamaPlanes& planes, const LlamaStream& stream, uint32_t first_layer) {
  const auto token_set = static_cast<uint32_t>(planes.token_sets.size() - 1);
  for (uint32_t i = 0; i < stream.keys.size(); ++i) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      if (side == Side::kValue && stream.values.empty()) continue;
      LlamaPlaneSpec spec;
      spec.token_set = token_set;
      spec.side = side;
      spec.layer = first_layer + i;
      spec.layer_of_block = i;
      spec.cells = stream.cells;
      spec.stored = side == Side::kKey ? stream.keys[i] : stream.values[i];
      spec.head_dim = spec.stored.row_values;
      planes.planes.push_back(spec);
    }
  }
}

std::vector<uint32_t> layers_with(const ModelFacts& facts, LlamaBlockRole role) {
  std::vector<uint32_t> layers;
  for (uint32_t i = 0; i < facts.layers.size(); ++i) {
    const LayerFacts& layer = facts.layers[i];
    if (layer.kv_heads == 0) continue;
    if (role == LlamaBlockRole::kFull && layer.sliding) continue;
    if (role == LlamaBlockRole::kSliding && !layer.sliding) continue;
    layers.push_back(i);
  }
  return layers;
}

std::string_view role_name(LlamaBlockRole role) {
  switch (role) {
    case LlamaBlockRole::kFull:
      return "full-attention ";
    case LlamaBlockRole::kSliding:
      return "sliding-window ";
    case LlamaBlockRole::kAll:
    case LlamaBlockRole::kOther:
      break;
  }
  return "attention ";
}

Status apply_layer_facts(LlamaPlaneSpec& spec, const LayerFacts& layer, bool keys_only) {
  uint32_t heads = layer.kv_heads;
  uint32_t head_dim = spec.side == Side::kKey ? layer.key_dim : layer.value_dim;
  // MLA: one latent row, whatever head count the model states.
  if (keys_only && head_dim == spec.stored.row_values) heads = 1;
  if (uint64_t{heads} * head_dim != spec.stored.row_values) {
    return invalid_argument(fmt::format("the model has {} heads x {} = {} {} channels in layer {}, the file has {}",
                                        heads, head_dim, uint64_t{heads} * head_dim, side_name(spec.side), spec.layer,
                                        spec.stored.row_values));
  }
  if (keys_only && layer.value_dim != 0 && heads != 1) {
    return invalid_argument(fmt::format("the model has values of {} channels per head in layer {}, the file has none",
                                        layer.value_dim, spec.layer));
  }
  spec.kv_heads = heads;
  spec.head_dim = head_dim;
  if (spec.side == Side::kKey) spec.rope = layer.rope;
  return {};
}

Status check_architecture(const LlamaState& state, const ModelFacts& facts) {
  // transformers' model_type has names of its own, so only a GGUF's architecture can be compared.
  if (!facts.fingerprint.starts_with("gguf:") || state.architecture.empty() || facts.architecture.empty()) return {};
  if (state.architecture == facts.architecture) return {};
  return invalid_argument(fmt::format("the session file is of architecture '{}', the model of '{}'", state.architecture,
                                      facts.architecture));
}

}  // namespace

LlamaPlanes list_llama_planes(const LlamaState& state) {
  LlamaPlanes planes;
  uint32_t first_layer = 0;
  uint32_t kv_block = 0;
  for (uint32_t b = 0; b < state.blocks.size(); ++b) {
    const LlamaBlock& block = state.blocks[b];
    uint32_t layers = 0;
    for (uint32_t s = 0; s < block.streams.size(); ++s) {
      const LlamaStream& stream = block.streams[s];
      if (stream.keys.empty()) continue;
      planes.token_sets.push_back(token_set_of(stream, block.shape.ext, s));
      planes.origins.push_back({b, kv_block, s});
      add_stream_planes(planes, stream, first_layer);
      layers = std::max(layers, static_cast<uint32_t>(stream.keys.size()));
    }
    first_layer += layers;
    if (block.shape.kind == LlamaBlockKind::kKv) ++kv_block;
  }
  return planes;
}

Status apply_model_facts(LlamaPlanes& planes, const LlamaState& state, const ModelFacts& facts) {
  KVPACK_RETURN_IF_ERROR(check_architecture(state, facts));
  const std::string module = llama_module_name(state, facts.architecture);
  const std::vector<LlamaBlockRole> roles = llama_block_roles(module);
  for (LlamaPlaneSpec& spec : planes.planes) {
    const LlamaTokenSetOrigin& origin = planes.origins[spec.token_set];
    const LlamaBlockRole role = origin.kv_block < roles.size() ? roles[origin.kv_block] : LlamaBlockRole::kOther;
    if (role == LlamaBlockRole::kOther) continue;  // indexers and the like: rows as they are
    const std::vector<uint32_t> layers = layers_with(facts, role);
    const LlamaStream& stream = state.blocks[origin.block].streams[origin.stream];
    if (layers.size() != stream.keys.size()) {
      return invalid_argument(fmt::format("the model has {} {}layers, the file's KV block {} has {}", layers.size(),
                                          role_name(role), origin.kv_block, stream.keys.size()));
    }
    spec.layer = layers[spec.layer_of_block];
    KVPACK_RETURN_IF_ERROR(apply_layer_facts(spec, facts.layers[spec.layer], stream.values.empty()));
  }
  return {};
}

uint32_t llama_hadamard_block(Side side, uint32_t head_dim) {
  if (head_dim == 0 || head_dim % 64 != 0) return 0;
  if (side == Side::kValue) return 64;
  uint32_t block = 64;
  while (head_dim % (block * 2) == 0) block *= 2;
  return block;
}

void assume_rotation(LlamaPlanes& planes, bool heads_known) {
  for (LlamaPlaneSpec& spec : planes.planes) {
    if (!dtype_is_quantized(spec.stored.dtype)) continue;
    // Without heads, 64 is the only block that every multiple of 64 allows.
    const uint32_t head_dim = heads_known ? spec.head_dim : spec.stored.row_values % 64 == 0 ? 64 : 0;
    spec.hadamard_block = llama_hadamard_block(spec.side, head_dim);
  }
}

}  // namespace kvpack
