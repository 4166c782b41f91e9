// SPDX-License-Identifier: Apache-2.0
// The guard cell of sliding-window caches. A sequence file keeps the window of the last token, positions N - n_swa to
// N - 1; llama-server, having restored it, wants the one before (pos_min < n_past - n_swa) and otherwise drops the
// whole cache. One cell of zeros at position N - n_swa - 2 satisfies it and lies outside every later token's window.
#include "formats/kv_planes.h"
#include "formats/llama_plan.h"

namespace kvpack {

std::optional<SwaGuard> find_swa_guard(const KvTensor& tensor, const LlamaContainer* base) {
  const auto& sets = tensor.token_sets;
  if (sets.size() != 2 || sets[0].stream != sets[1].stream) return std::nullopt;
  uint32_t full = 0;
  uint32_t window = 1;
  if (base != nullptr) {
    const auto& base_sets = base->planes.token_sets;
    if (base->state.session || llama_module_name(base->state, "") != "iSWA" || base_sets.size() != 2 ||
        base_sets[1].positions.size() != sets[1].positions.size()) {
      return std::nullopt;
    }
  } else if (sets[0].positions.size() < sets[1].positions.size()) {
    std::swap(full, window);
  }
  const std::vector<int32_t>& positions = sets[window].positions;
  if (positions.empty() || sets[full].positions.empty()) return std::nullopt;
  // A window that ends with the context and has no hole; a hole at its start is a guard cell that is already there.
  const int64_t tokens = int64_t{sets[full].positions.back()} + 1;
  const auto cells = static_cast<int64_t>(positions.size());
  if (positions.back() != tokens - 1 || positions.front() != tokens - cells) return std::nullopt;
  const int64_t position = tokens - cells - 2;
  if (position < 0) return std::nullopt;
  return SwaGuard{window, static_cast<int32_t>(position)};
}

bool swa_guard_cell_possible(const KvTensor& tensor, ByteSpan container) {
  if (container.empty()) return find_swa_guard(tensor, nullptr).has_value();
  const auto base = read_llama_container(container, kMaxRebuiltFileBytes);
  return base.ok() && find_swa_guard(tensor, &*base).has_value();
}

}  // namespace kvpack
