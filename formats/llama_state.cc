// SPDX-License-Identifier: Apache-2.0
// A llama.cpp state file as a KvFile: the most plausible reading that fits the model.
#include "formats/llama_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "formats/architectures.h"

namespace kvpack {
namespace {

struct Reading {
  LlamaState state;
  LlamaPlanes planes;
};

Result<Reading> choose_reading(std::vector<LlamaState> readings, const ModelFacts* facts) {
  std::optional<Error> first_error;
  for (LlamaState& state : readings) {
    LlamaPlanes planes = list_llama_planes(state);
    if (facts != nullptr) {
      const Status status = apply_model_facts(planes, state, *facts);
      if (!status.ok()) {
        if (!first_error) first_error = status.error();
        continue;
      }
    }
    return Reading{std::move(state), std::move(planes)};
  }
  return *first_error;
}

std::string types_of(const LlamaPlanes& planes, Side side) {
  std::set<std::string> types;
  bool transposed = false;
  for (const LlamaPlaneSpec& spec : planes.planes) {
    if (spec.side != side) continue;
    types.insert(std::string(dtype_name(spec.stored.dtype)));
    transposed = transposed || spec.stored.transposed;
  }
  if (types.empty()) return "";
  std::string text = fmt::format(", {} ", side_name(side));
  for (const std::string& type : types) text += (type == *types.begin() ? "" : "/") + type;
  return text + (transposed ? " transposed" : "");
}

std::string describe(const LlamaState& state, const LlamaPlanes& planes, const std::string& module, bool certain,
                     size_t readings) {
  std::string text = state.session
                         ? fmt::format("llama.cpp session file v{} of '{}'", kLlamaSessionVersion, state.architecture)
                         : fmt::format("llama.cpp sequence file v{}, {} payload", kLlamaSequenceVersion,
                                       state.packed_payload ? "packed" : "plain");
  text += ", " + module;
  if (!certain)
    text += module == "iSWA" ? " (or MSA: the file does not tell)" : " (or MLA iSWA: the file does not tell)";
  if (readings > 1) text += fmt::format(" ({} readings fit, the likeliest taken)", readings);
  bool ext = false;
  bool ple = false;
  size_t streams = 0;
  for (const LlamaBlock& block : state.blocks) {
    ext = ext || block.shape.ext;
    ple = ple || block.shape.ple;
    streams = std::max(streams, block.streams.size());
  }
  if (ext) text += ", extra position words";
  if (ple) text += ", PLE rows";
  if (streams > 1) text += fmt::format(", {} streams", streams);
  size_t cells = 0;
  for (const TokenSet& set : planes.token_sets) cells = std::max(cells, set.positions.size());
  text += fmt::format(", {} cells", cells) + types_of(planes, Side::kKey) + types_of(planes, Side::kValue);
  if (state.media > 0) text += fmt::format(", {} media", state.media);
  if (!state.trailing.empty()) text += fmt::format(", {} trailing bytes kept", state.trailing.size());
  return text;
}

std::string assumptions_of(const LlamaPlanes& planes, bool heads_known, bool rotated) {
  bool quantized = false;
  std::set<uint32_t> blocks;
  for (const LlamaPlaneSpec& spec : planes.planes) {
    quantized = quantized || dtype_is_quantized(spec.stored.dtype);
    if (spec.hadamard_block > 0) blocks.insert(spec.hadamard_block);
  }
  if (!quantized) return "";
  if (!rotated) return "quantized K and V not rotated (LLAMA_ATTN_ROT_DISABLE)";
  if (blocks.empty()) return "quantized K and V not rotated (heads not a multiple of 64)";
  std::string sizes;
  for (const uint32_t block : blocks) sizes += (sizes.empty() ? "" : ", ") + std::to_string(block);
  return fmt::format("quantized K and V Hadamard-rotated in blocks of {}{}", sizes,
                     heads_known ? "" : " (head size unknown)");
}

}  // namespace

Result<KvFile> read_llama_state(std::shared_ptr<const FileBytes> storage, const KvReadOptions& options) {
  KvFile file;
  const ModelFacts* facts = options.facts;
  if (facts != nullptr) {
    // Facts made from a config.json name transformers' channel order, the file has llama.cpp's.
    ModelFacts own_layout = with_llama_cpp_layout(*facts);
    if (own_layout.ropes != facts->ropes) file.facts = std::move(own_layout);
  }
  KVPACK_ASSIGN_OR_RETURN(std::vector<LlamaState> readings, search_llama_readings(*storage));
  const size_t count = readings.size();
  KVPACK_ASSIGN_OR_RETURN(Reading reading, choose_reading(std::move(readings), facts));
  auto& [state, planes] = reading;
  const bool heads_known = facts != nullptr;
  if (options.hadamard_rotated) assume_rotation(planes, heads_known);

  file.format = KvFileFormat::kLlamaState;
  bool certain = true;
  file.module = llama_module_name(state, facts != nullptr ? facts->architecture : "", &certain);
  // With facts only one reading was asked for its fit; the others are no news.
  file.description = describe(state, planes, file.module, certain, heads_known ? 1 : count);
  file.has_opaque_state = state.has_opaque_state();
  file.tokens = state.tokens;
  file.container = write_llama_container(*storage, state, planes, heads_known);
  file.assumptions = assumptions_of(planes, heads_known, options.hadamard_rotated);
  file.tensor.storage = storage;
  for (const LlamaPlaneSpec& spec : planes.planes) {
    const TokenSet& set = planes.token_sets[spec.token_set];
    file.tensor.planes.push_back({spec.layer, spec.side, spec.token_set, spec.rope,
                                  llama_plane_view(storage->data() + spec.stored.offset, spec, set)});
  }
  // Moving the sets keeps the row tables where the views point.
  file.tensor.token_sets = std::move(planes.token_sets);
  return file;
}

}  // namespace kvpack
