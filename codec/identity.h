// SPDX-License-Identifier: Apache-2.0
// ArchiveIdentity to and from the identity section's JSON.
#pragma once

#include <string>
#include <string_view>

#include "codec/archive_codec.h"

namespace kvpack {

std::string identity_to_json(const ArchiveIdentity& identity);
// Missing or mistyped fields read as empty; an unknown source format is unsupported.
Result<ArchiveIdentity> identity_from_json(std::string_view text);

}  // namespace kvpack
