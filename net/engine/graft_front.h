// SPDX-License-Identifier: Apache-2.0
// Two halves of one context become one state file: the front as an engine recomputed it, the rest as it was fetched.
#pragma once

#include <cstdint>
#include <memory>

#include "formats/bytes.h"
#include "formats/file_bytes.h"
#include "formats/result.h"

namespace kvpack {

// `fetched` with the values of its first `tokens` tokens taken from `engine_state`. Both are KV files of the same
// format, planes and types; nothing but values is taken from the engine's. Errors: invalid_argument where they differ,
// unsupported for several token sets, and what reading either gives.
Result<Bytes> graft_front(Bytes fetched, std::shared_ptr<const FileBytes> engine_state, uint32_t tokens);

}  // namespace kvpack
