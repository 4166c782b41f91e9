// SPDX-License-Identifier: Apache-2.0
#include "cli/guard_cell.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpack::cli {
namespace {

int32_t last_position(const ArchiveShape& shape) {
  int32_t last = -1;
  for (const TokenSetShape& set : shape.token_sets) {
    if (!set.positions.empty()) last = std::max(last, set.positions.back());
  }
  return last;
}

// As write_llama_state would decide, which looks at the token sets and at the container's blocks.
bool writer_would_add_one(const ArchiveReader& reader) {
  KvTensor tensor;
  for (const TokenSetShape& shape : reader.shape().token_sets) {
    TokenSet set;
    set.positions = shape.positions;
    set.stream = shape.stream;
    tensor.token_sets.push_back(std::move(set));
  }
  const auto container = reader.section(SectionKind::kContainer);
  return container.ok() && swa_guard_cell_possible(tensor, *container);
}

}  // namespace

GuardCellOffer guard_cell_offer(const ArchiveReader& reader, const ArchiveIdentity& identity) {
  GuardCellOffer offer;
  if (identity.source_format != KvFileFormat::kLlamaState || identity.source_module.find("iSWA") == std::string::npos) {
    offer.why_not = "the archive does not come from a llama.cpp state with sliding-window layers";
    return offer;
  }
  const int64_t tokens = int64_t{last_position(reader.shape())} + 1;
  if (identity.sliding_window > 0 && tokens <= int64_t{identity.sliding_window} + 1) {
    offer.why_not =
        fmt::format("the context of {} tokens is no longer than its window of {}", tokens, identity.sliding_window);
    return offer;
  }
  if (!writer_would_add_one(reader)) {
    offer.why_not =
        "the state is a session, has a guard cell already, or its window is not whole or has no room before it";
    return offer;
  }
  offer.possible = true;
  offer.from_server = identity.source_description.find("packed") != std::string::npos;
  return offer;
}

}  // namespace kvpack::cli
