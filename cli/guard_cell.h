// SPDX-License-Identifier: Apache-2.0
// llama-server reuses a restored sliding-window (iSWA) context only if the file holds one position more than llama.cpp
// saves. A never-attended cell of zeros supplies it: the "guard cell".
#pragma once

#include <string>

#include "codec/archive_codec.h"

namespace kvpack::cli {

struct GuardCellOffer {
  bool possible = false;     // the source is a sliding-window llama.cpp state longer than its window
  bool from_server = false;  // saved by llama-server, so probably going back there
  std::string why_not;       // set when not possible, for messages
};
GuardCellOffer guard_cell_offer(const ArchiveReader& reader, const ArchiveIdentity& identity);

}  // namespace kvpack::cli
