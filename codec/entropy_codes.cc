// SPDX-License-Identifier: Apache-2.0
#include "codec/entropy_codes.h"

#include <memory>

namespace kvpack {

const EntropyCodes& entropy_codes() {
  static const std::unique_ptr<const EntropyCodes> kCodes = [] {
    auto codes = std::make_unique<EntropyCodes>();
    for (int shape = 0; shape < kShapes; ++shape) {
      for (int scale = 0; scale < kSymbolScales; ++scale) {
        codes->symbols[shape][scale] = make_symbol_code(kSymbolFrequencies[shape][scale]);
        codes->encode_symbols[shape][scale] = make_encode_code(kSymbolFrequencies[shape][scale]);
      }
      for (int scale = 0; scale < kDigitScales; ++scale) {
        codes->digits[shape][scale] = make_digit_code(kDigitFrequencies[shape][scale]);
        codes->encode_digits[shape][scale] = make_encode_code(kDigitFrequencies[shape][scale]);
      }
    }
    return codes;
  }();
  return *kCodes;
}

}  // namespace kvpack
