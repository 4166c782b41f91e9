// SPDX-License-Identifier: Apache-2.0
#include "net/engine/engine_blend.h"

#include <fmt/format.h>

#include "codec/row_values.h"

namespace kvpack {
namespace {

Status check_same(const JoinedContext& context, const KvFile& state) {
  const auto& ours = context.tensor().planes;
  const auto& theirs = state.tensor.planes;
  bool same = state.tokens == context.tokens() && state.tensor.token_sets.size() == 1 && ours.size() == theirs.size();
  for (size_t p = 0; same && p < ours.size(); ++p) {
    same = ours[p].layer == theirs[p].layer && ours[p].side == theirs[p].side &&
           ours[p].view.channels() == theirs[p].view.channels();
  }
  if (same) return {};
  return invalid_argument("the engine's state is not of the context that it was given");
}

}  // namespace

Status recompute_in(Engine& engine, std::span<const uint32_t> tokens, JoinedContext& context) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes joined, write_llama_state(context.tensor(), context.tokens(), {}, {}));
  KVPACK_RETURN_IF_ERROR(engine.import_kv(joined));
  KVPACK_RETURN_IF_ERROR(engine.recompute(context.tokens(), tokens));
  KVPACK_ASSIGN_OR_RETURN(auto state, engine.export_kv());
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(std::move(state), {}));
  KVPACK_RETURN_IF_ERROR(check_same(context, file));
  std::vector<float> key, value;
  const auto rows = [&](const KvView& view, std::vector<float>& out) {
    out.resize(tokens.size() * view.channels());
    for (size_t i = 0; i < tokens.size(); ++i) load_rows(view, tokens[i], 1, out.data() + i * view.channels());
  };
  for (size_t layer = 0; layer < context.layers(); ++layer) {
    rows(file.tensor.planes[2 * layer].view, key);
    rows(file.tensor.planes[2 * layer + 1].view, value);
    context.store(layer, tokens, key, value);
  }
  return {};
}

}  // namespace kvpack
