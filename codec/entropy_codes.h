// SPDX-License-Identifier: Apache-2.0
// entropy_tables.h unpacked for the coder's steps, one code per table.
#pragma once

#include "codec/entropy_tables.h"
#include "codec/rans.h"

namespace kvpack {

struct EntropyCodes {
  SymbolCode symbols[kShapes][kSymbolScales];
  DigitCode digits[kShapes][kDigitScales];
  EncodeCode encode_symbols[kShapes][kSymbolScales];
  EncodeCode encode_digits[kShapes][kDigitScales];
};
const EntropyCodes& entropy_codes();

}  // namespace kvpack
