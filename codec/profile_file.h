// SPDX-License-Identifier: Apache-2.0
// A profile as a .kvprofile file, which is a safetensors file (FORMAT.md, "Profile"):
//
//   __metadata__   kvpack.profile = "1", kvpack.model.name, .architecture, .fingerprint, kvpack.method
//   layers.N.key.mean         F32 [kv_head][head_dim]
//   layers.N.key.sensitivity  F32 [kv_head]
//   layers.N.key.deviation    F32 [kv_head][component]
//   layers.N.key.scale        F32 [kv_head][component]
//   layers.N.key.rows         I8  [kv_head][component][head_dim]
//   layers.N.value. ...       the same
//   layers.N.token_weights    F32 [kv_head][head_dim + 5], if token weights could be learned
#pragma once

#include <string>
#include <string_view>

#include "codec/profile.h"
#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint64_t kMaxProfileBytes = uint64_t{1} << 30;

// The same bytes for the same profile. Its planes have kv_heads bases of head_dim components each.
Bytes write_profile(const Profile& profile);

// Checks everything that using the profile relies on: shapes within the limits of a model, all of a plane's tensors
// there and of one shape, only finite numbers, scales and sensitivities above 0. `name` begins every message. Errors:
// not_kvpack (not a profile), unsupported (another version), corrupt, truncated, limit.
Result<Profile> read_profile(ByteSpan bytes, std::string_view name);

// XXH3-128 of the file's bytes, 32 hexadecimal digits: archives name a profile by it.
std::string profile_hash(ByteSpan bytes);

}  // namespace kvpack
