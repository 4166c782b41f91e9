// SPDX-License-Identifier: Apache-2.0
#include "codec/token_selection.h"

#include <fmt/format.h>

#include <algorithm>

#include "codec/token_edit.h"
#include "codec/token_keep.h"

namespace kvpack {
namespace {

// The tokens of every set that any head keeps, ascending.
std::vector<std::vector<uint32_t>> tokens_of_any_head(const KvTensor& tensor, const TokenScores& keep,
                                                      const std::vector<std::vector<bool>>& forced) {
  std::vector<std::vector<bool>> any = forced;
  for (size_t p = 0; p < tensor.planes.size(); ++p) {
    const KvPlane& plane = tensor.planes[p];
    for (size_t i = 0; i < keep[p].size(); ++i) {
      if (keep[p][i] != 0) any[plane.token_set][i / plane.view.kv_heads] = true;
    }
  }
  std::vector<std::vector<uint32_t>> tokens(any.size());
  for (size_t s = 0; s < any.size(); ++s) {
    for (uint32_t t = 0; t < any[s].size(); ++t) {
      if (any[s][t]) tokens[s].push_back(t);
    }
  }
  return tokens;
}

// The kept tokens' stored rows, contiguous, in one buffer.
struct KeptRows {
  KvTensor tensor;
  std::vector<MutableKvView> views;  // of tensor's planes
};

KeptRows copy_kept(const KvTensor& from, const std::vector<std::vector<uint32_t>>& tokens) {
  KeptRows kept;
  for (size_t s = 0; s < tokens.size(); ++s) {
    TokenSet set;
    set.stream = from.token_sets[s].stream;
    for (const uint32_t t : tokens[s]) set.positions.push_back(from.token_sets[s].positions[t]);
    kept.tensor.token_sets.push_back(std::move(set));
  }
  uint64_t total_bytes = 0;
  for (const KvPlane& plane : from.planes)
    total_bytes += tokens[plane.token_set].size() * plane.view.packed_row_bytes();
  Bytes rows(total_bytes);
  std::byte* at = rows.data();
  for (const KvPlane& plane : from.planes) {
    const std::vector<uint32_t>& of_set = tokens[plane.token_set];
    MutableKvView view = make_row_view(at, plane.view.dtype, static_cast<uint32_t>(of_set.size()), plane.view.kv_heads,
                                       plane.view.head_dim);
    view.hadamard_block = plane.view.hadamard_block;
    for (const uint32_t t : of_set) {
      load_raw(plane.view, t, 1, at);
      at += plane.view.packed_row_bytes();
    }
    kept.views.push_back(view);
    kept.tensor.planes.push_back({plane.layer, plane.side, plane.token_set, plane.rope, view});
  }
  kept.tensor.storage = std::make_shared<const FileBytes>(std::move(rows));
  return kept;
}

// The same values as a file of their own, with a container to match.
Result<KvFile> file_of(const KvFile& source, const KvTensor& tensor, const KvReadOptions& read) {
  Bytes bytes;
  if (source.format == KvFileFormat::kLlamaState) {
    KVPACK_ASSIGN_OR_RETURN(bytes, write_llama_state(tensor, source.tokens, source.container, {}));
  } else {
    KVPACK_ASSIGN_OR_RETURN(bytes, write_safetensors(tensor, source.tokens, std::nullopt));
  }
  KVPACK_ASSIGN_OR_RETURN(KvFile file, read_kv_file(std::move(bytes), read));
  if (file.tensor.planes.size() != tensor.planes.size()) {
    return unsupported(
        fmt::format("of {} planes {} are left by the selection", tensor.planes.size(), file.tensor.planes.size()));
  }
  return file;
}

// The plane of `from` that has become `plane`.
size_t origin_of(const KvTensor& from, const KvPlane& plane) {
  const auto same = std::find_if(from.planes.begin(), from.planes.end(), [&](const KvPlane& candidate) {
    return candidate.layer == plane.layer && candidate.side == plane.side;
  });
  return static_cast<size_t>(same - from.planes.begin());
}

// [token set of `to`] the sinks of `from`, counted among the kept tokens.
std::vector<std::vector<uint32_t>> kept_sinks(const KvTensor& from, const KvTensor& to, const KeptTokens& kept) {
  const std::vector<std::vector<uint32_t>> sinks = attention_sinks(from);
  std::vector<std::vector<uint32_t>> of_kept(to.token_sets.size());
  for (const KvPlane& plane : to.planes) {
    const uint32_t set = from.planes[origin_of(from, plane)].token_set;
    const std::vector<uint32_t>& tokens = kept.tokens[set];
    of_kept[plane.token_set].clear();
    for (const uint32_t sink : sinks[set]) {
      const auto at = std::lower_bound(tokens.begin(), tokens.end(), sink);
      of_kept[plane.token_set].push_back(static_cast<uint32_t>(at - tokens.begin()));
    }
  }
  return of_kept;
}

// [plane of `to`] weights of the kept tokens; `from` is the tensor that was selected from.
TokenScores kept_weights(const KvTensor& from, const KvTensor& to, const KeptTokens& kept, const TokenScores* scores) {
  TokenScores weights;
  for (const KvPlane& plane : to.planes) {
    const size_t p = origin_of(from, plane);
    const uint32_t set = from.planes[p].token_set;
    const uint32_t heads = plane.view.kv_heads;
    weights.emplace_back();
    for (const uint32_t t : kept.tokens[set]) {
      for (uint32_t head = 0; head < heads; ++head) {
        const size_t i = size_t{t} * heads + head;
        const bool stays = kept.keep[p][i] != 0 || kept.forced[set][t];
        weights.back().push_back(!stays ? 0.0f : scores != nullptr ? (*scores)[p][i] : 1.0f);
      }
    }
  }
  return weights;
}

// Of the kept (layer, head, token): those that their head alone dropped.
double dropped_share(const KvTensor& tensor, const KeptTokens& kept) {
  uint64_t dropped = 0;
  uint64_t all = 0;
  for (size_t p = 0; p < tensor.planes.size(); ++p) {
    const uint32_t heads = tensor.planes[p].view.kv_heads;
    const uint32_t set = tensor.planes[p].token_set;
    for (const uint32_t t : kept.tokens[set]) {
      for (uint32_t head = 0; head < heads && !kept.forced[set][t]; ++head) {
        dropped += kept.keep[p][size_t{t} * heads + head] == 0;
      }
      all += heads;
    }
  }
  return all > 0 ? static_cast<double>(dropped) / static_cast<double>(all) : 0;
}

Status check_selectable(const KvTensor& tensor, const TokenScores& keep) {
  if (keep.size() != tensor.planes.size()) return invalid_argument("the mask is not for this file's planes");
  for (const TokenSet& set : tensor.token_sets) {
    if (set.stream != tensor.token_sets[0].stream) {
      return invalid_argument("tokens are selected of one sequence; the file holds several");
    }
    if (std::adjacent_find(set.positions.begin(), set.positions.end()) != set.positions.end()) {
      return invalid_argument("several tokens share a position (M-RoPE): they cannot be told apart in a selection");
    }
  }
  return {};
}

}  // namespace

Result<SelectedContext> select_tokens(const KvFile& file, const ModelFacts* facts, const TokenScores& keep,
                                      const SelectOptions& options) {
  KVPACK_RETURN_IF_ERROR(check_selectable(file.tensor, keep));
  KeptTokens kept{keep, always_kept_tokens(file.tensor), {}};
  kept.tokens = tokens_of_any_head(file.tensor, keep, kept.forced);
  SelectedContext selected;
  for (size_t s = 0; s < kept.tokens.size(); ++s) {
    if (file.tensor.token_sets[s].positions.size() < selected.tokens) continue;
    selected.tokens = file.tensor.token_sets[s].positions.size();
    selected.kept_tokens = kept.tokens[s].size();
  }
  selected.replaced_share = dropped_share(file.tensor, kept);
  KeptRows rows = copy_kept(file.tensor, kept.tokens);
  if (options.merge || selected.replaced_share > 0) {
    edit_kept_tokens(file.tensor, facts, kept, options, rows.views);
  }
  KVPACK_ASSIGN_OR_RETURN(selected.file, file_of(file, rows.tensor, options.read));
  selected.sinks = kept_sinks(file.tensor, selected.file.tensor, kept);
  selected.file.description += fmt::format(", {} of {} tokens kept", selected.kept_tokens, selected.tokens);
  if (options.scores != nullptr || selected.replaced_share > 0) {
    selected.weights = kept_weights(file.tensor, selected.file.tensor, kept, options.scores);
  }
  return selected;
}

}  // namespace kvpack
