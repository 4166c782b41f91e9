// SPDX-License-Identifier: Apache-2.0
// KIVI's quantizer (Liu et al., ICML 2024, arXiv 2402.02750): keys per channel in groups
// of 32 tokens, values per token in groups of 32 channels, and the last 128 tokens exactly. GEAR builds on it.
#pragma once

#include "codec/presets/preset_planes.h"

namespace kvpack {

// Tokens of a plane that KIVI quantizes: whole groups before its window.
uint32_t kivi_tokens(const PresetPlane& plane);
// Quantizes the first `tokens`; bits of them and of the exact rest.
uint64_t quantize_kivi(PresetPlane& plane, uint32_t tokens, int bits);

}  // namespace kvpack
