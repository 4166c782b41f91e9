// SPDX-License-Identifier: Apache-2.0
// Strings from files and archives are never sent to a terminal as they are.
#pragma once

#include <string>
#include <string_view>

namespace kvpack::cli {

// `text` with everything that could steer a terminal or mislead a reader escaped: control characters (C0, DEL, C1),
// line and paragraph separators, bidirectional controls, and bytes that are not UTF-8 (as \xNN).
std::string printable(std::string_view text);

}  // namespace kvpack::cli
