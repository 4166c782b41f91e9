// SPDX-License-Identifier: Apache-2.0
// The basis of one head in which one step serves: from its sensitivity F and the covariance C of its values.
//
//   S = (F / mean diagonal + regulariser I)^1/2,  U = eigenvectors of S C S,  A = sqrt(mean diagonal) S U
//   components = (value - mean) A,  rows = inverse of A:  value = mean + components rows
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/plane_sums.h"
#include "codec/profile.h"
#include "codec/transform.h"

namespace kvpack {

struct ProfileBasis {
  HeadMatrix rows;               // by falling deviation
  std::vector<float> deviation;  // [component]
  float sensitivity = 0;         // mean diagonal of F
};

// `sensitivity` and `covariance` are [dim][dim], symmetric, not negative. A sensitivity whose mean diagonal is below
// `least` (a head that nothing listens to) is taken as `least` times the identity; `least` is above 0.
ProfileBasis make_profile_basis(std::span<const float> sensitivity, std::span<const float> covariance, uint32_t dim,
                                double regulariser, double least);

// The whole plane from its statistics and each head's sensitivity, [kv_head] x [dim][dim].
ProfilePlane make_profile_plane(uint32_t layer, Side side, const PlaneSums& statistics,
                                const std::vector<std::vector<float>>& sensitivity, double regulariser);

}  // namespace kvpack
