// SPDX-License-Identifier: Apache-2.0
// Whether the options of an encode make sense, for this file.
#pragma once

#include "codec/archive_codec.h"

namespace kvpack {

// Errors: invalid_argument, naming the option.
Status check_encode_options(const KvFile& file, const EncodeOptions& options);

}  // namespace kvpack
