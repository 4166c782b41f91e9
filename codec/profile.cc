// SPDX-License-Identifier: Apache-2.0
#include "codec/profile.h"

#include <algorithm>

namespace kvpack {

const ProfilePlane* Profile::plane(uint32_t layer, Side side) const {
  const auto found = std::find_if(planes.begin(), planes.end(), [&](const ProfilePlane& plane) {
    return plane.layer == layer && plane.side == side;
  });
  return found == planes.end() ? nullptr : &*found;
}

const TokenWeightModel* Profile::token_model(uint32_t layer) const {
  const auto found = std::find_if(token_weights.begin(), token_weights.end(),
                                  [&](const TokenWeightModel& model) { return model.layer == layer; });
  return found == token_weights.end() ? nullptr : &*found;
}

}  // namespace kvpack
