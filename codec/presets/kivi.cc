// SPDX-License-Identifier: Apache-2.0
#include "codec/presets/kivi.h"

#include "codec/presets/group_quantizer.h"

namespace kvpack {
namespace {

constexpr uint32_t kGroup = 32;
constexpr uint32_t kExactTokens = 128;

}  // namespace

uint32_t kivi_tokens(const PresetPlane& plane) {
  return plane.tokens() > kExactTokens ? (plane.tokens() - kExactTokens) / kGroup * kGroup : 0;
}

uint64_t quantize_kivi(PresetPlane& plane, uint32_t tokens, int bits) {
  const uint64_t exact = uint64_t{plane.tokens() - tokens} * plane.channels() * 16;
  if (plane.is_key()) return exact + quantize_along_tokens(plane.rows.data(), tokens, plane.channels(), kGroup, bits);
  return exact + quantize_along_channels(plane.rows.data(), tokens, plane.channels(), kGroup, bits);
}

void add_kivi(std::vector<Preset>& all) {
  for (const int bits : {2, 3, 4, 5}) {
    all.push_back(
        {"kivi-" + std::to_string(bits), "kivi", std::to_string(bits) + " bits in groups of 32, last 128 tokens exact",
         [bits](const PresetInput& input) {
           return run_per_plane(input, false,
                                [bits](PresetPlane& plane) { return quantize_kivi(plane, kivi_tokens(plane), bits); });
         }});
  }
}

}  // namespace kvpack
