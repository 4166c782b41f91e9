// SPDX-License-Identifier: Apache-2.0
#include "codec/token_edit.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "codec/parallel.h"
#include "codec/rope.h"
#include "codec/token_merge.h"

namespace kvpack {
namespace {

// A plane's values as they are edited: RoPE undone, and which (token, head) differ from what is stored.
struct EditedPlane {
  const KvPlane* plane = nullptr;
  const Rope* rope = nullptr;
  std::vector<float> rows;    // [token][kv_head][head_dim]
  std::vector<bool> changed;  // [token * kv_heads + head]

  EditedPlane(const KvTensor& tensor, const KvPlane& of, const ModelFacts* facts) : plane(&of) {
    if (facts != nullptr && of.rope >= 0) rope = &facts->ropes[static_cast<size_t>(of.rope)];
    rows.resize(size_t{of.view.tokens} * of.view.channels());
    changed.resize(size_t{of.view.tokens} * of.view.kv_heads);
    load_values(of.view, 0, of.view.tokens, rows.data());
    if (rope != nullptr) rotation(tensor).undo(rows, of.view.kv_heads, of.view.head_dim);
  }
  RopeRotation rotation(const KvTensor& tensor) const {
    return RopeRotation(*rope, tensor.token_sets[plane->token_set].positions);
  }
  HeadRows head(uint32_t index) { return {rows, plane->view.kv_heads, index, plane->view.head_dim}; }
  // Puts the changed heads of `tokens` into `out`, whose rows are those tokens.
  void store(const KvTensor& tensor, std::span<const uint32_t> tokens, const MutableKvView& out) {
    if (std::none_of(changed.begin(), changed.end(), [](bool c) { return c; })) return;
    const KvView& view = plane->view;
    if (rope != nullptr) rotation(tensor).redo(rows, view.kv_heads, view.head_dim);
    std::vector<float> row(view.channels());
    for (uint32_t i = 0; i < tokens.size(); ++i) {
      bool any = false;
      for (uint32_t h = 0; h < view.kv_heads; ++h) any = any || changed[size_t{tokens[i]} * view.kv_heads + h];
      if (!any) continue;
      load_values(view, tokens[i], 1, row.data());
      for (uint32_t h = 0; h < view.kv_heads; ++h) {
        if (!changed[size_t{tokens[i]} * view.kv_heads + h]) continue;
        std::copy_n(head(h).of(tokens[i]), view.head_dim, row.begin() + static_cast<ptrdiff_t>(h * view.head_dim));
      }
      store_values(out, i, 1, row.data());
    }
  }
};

// What stands for the values that a head dropped.
std::vector<float> stand_in(EditedPlane& edited, uint32_t head, std::span<const TokenFate> fate,
                            const SelectOptions& options) {
  const KvView& view = edited.plane->view;
  std::vector<float> values(view.head_dim, 0.0f);
  const ProfilePlane* profile =
      options.profile != nullptr ? options.profile->plane(edited.plane->layer, edited.plane->side) : nullptr;
  if (profile != nullptr && profile->kv_heads == view.kv_heads && profile->head_dim == view.head_dim) {
    std::copy_n(profile->mean.begin() + static_cast<ptrdiff_t>(head * view.head_dim), view.head_dim, values.begin());
    return values;
  }
  const bool keeps_any = std::find(fate.begin(), fate.end(), TokenFate::kKept) != fate.end();
  std::vector<double> sums(view.head_dim);
  uint64_t count = 0;
  for (uint32_t t = 0; t < fate.size(); ++t) {
    const float* row = edited.head(head).of(t);
    const bool finite = std::all_of(row, row + view.head_dim, [](float v) { return std::isfinite(v); });
    if (fate[t] != (keeps_any ? TokenFate::kKept : TokenFate::kDropped) || !finite) continue;
    ++count;
    for (uint32_t d = 0; d < view.head_dim; ++d) sums[d] += double{row[d]};
  }
  for (uint32_t d = 0; d < view.head_dim && count > 0; ++d) {
    values[d] = static_cast<float>(sums[d] / static_cast<double>(count));
  }
  return values;
}

// One layer's planes: merges, and stands in for what its heads dropped.
class LayerEdit {
 public:
  LayerEdit(const KeptTokens& kept, uint32_t token_set, const SelectOptions& options)
      : keep_(kept.keep), forced_(kept.forced[token_set]), tokens_(kept.tokens[token_set]), options_(options) {}

  // `key` and `value` (may be null) with their index in the tensor.
  void edit(EditedPlane& key, EditedPlane* value, uint32_t key_plane) {
    for (uint32_t head = 0; head < key.plane->view.kv_heads; ++head) {
      const std::vector<TokenFate> fate = fate_of(key.plane->view, head, key_plane);
      std::vector<EditedPlane*> sides = {&key};
      if (value != nullptr && value->plane->view.kv_heads == key.plane->view.kv_heads) sides.push_back(value);
      std::vector<std::vector<float>> stand_ins;
      for (EditedPlane* side : sides) stand_ins.push_back(stand_in(*side, head, fate, options_));
      if (options_.merge) merge(sides, head, fate, key_plane);
      for (size_t s = 0; s < sides.size(); ++s) replace(*sides[s], head, fate, stand_ins[s]);
    }
  }

 private:
  std::vector<TokenFate> fate_of(const KvView& view, uint32_t head, uint32_t plane) const {
    std::vector<TokenFate> fate(view.tokens, TokenFate::kDropped);
    for (uint32_t t = 0; t < view.tokens; ++t) {
      if (keep_[plane][size_t{t} * view.kv_heads + head] != 0) fate[t] = TokenFate::kKept;
      if (forced_[t]) fate[t] = TokenFate::kUntouched;
    }
    return fate;
  }
  void merge(std::span<EditedPlane* const> sides, uint32_t head, std::span<const TokenFate> fate, uint32_t plane) {
    std::vector<float> scores;
    const uint32_t heads = sides[0]->plane->view.kv_heads;
    for (size_t t = 0; options_.scores != nullptr && t < fate.size(); ++t) {
      scores.push_back((*options_.scores)[plane][t * heads + head]);
    }
    const HeadRows values = sides.size() > 1 ? sides[1]->head(head) : HeadRows{};
    for (const uint32_t t : merge_dropped_tokens(sides[0]->head(head), values, fate, scores)) {
      for (EditedPlane* side : sides) side->changed[size_t{t} * heads + head] = true;
    }
  }
  void replace(EditedPlane& side, uint32_t head, std::span<const TokenFate> fate, std::span<const float> values) const {
    for (const uint32_t t : tokens_) {
      if (fate[t] != TokenFate::kDropped) continue;
      std::copy(values.begin(), values.end(), side.head(head).of(t));
      side.changed[size_t{t} * side.plane->view.kv_heads + head] = true;
    }
  }

  const TokenScores& keep_;
  const std::vector<bool>& forced_;
  std::span<const uint32_t> tokens_;
  const SelectOptions& options_;
};

}  // namespace

void edit_kept_tokens(const KvTensor& from, const ModelFacts* facts, const KeptTokens& kept,
                      const SelectOptions& options, std::span<const MutableKvView> out) {
  parallel_for(from.planes.size(), options.threads, [&](uint64_t p) {
    const KvPlane& plane = from.planes[p];
    if (plane.side != Side::kKey) return;
    EditedPlane key(from, plane, facts);
    std::optional<EditedPlane> value;
    uint64_t value_plane = p + 1;  // K before V
    if (value_plane < from.planes.size() && key_plane_of(from, static_cast<uint32_t>(value_plane)) == p) {
      value.emplace(from, from.planes[value_plane], facts);
    }
    LayerEdit(kept, plane.token_set, options).edit(key, value ? &*value : nullptr, static_cast<uint32_t>(p));
    key.store(from, kept.tokens[plane.token_set], out[p]);
    if (value) value->store(from, kept.tokens[plane.token_set], out[value_plane]);
  });
}

}  // namespace kvpack
