// SPDX-License-Identifier: Apache-2.0
// From a plane's statistics to its parameters: steps, mean, and the transform that costs the fewest bytes, measured
// with the coder's own tables on a sample of rows, side information included.
#pragma once

#include <cstdint>
#include <span>

#include "codec/archive_codec.h"
#include "codec/plane_parameters.h"
#include "codec/plane_statistics.h"

namespace kvpack {

// How the finest level's step is set.
struct StepRule {
  double per_deviation = 0;  // step of a head = this x its deviation, or
  double absolute = 0;       // the same step for all heads, if > 0
  uint32_t levels = 1;
  double profile_step = 0;  // with a profile: the finest step of every component
};

struct ParameterChoice {
  PlaneParameters parameters;
  std::vector<ForwardTransform> forward;  // [kv_head], empty if the parameters are lossless
  double estimated_bits = 0;              // of the whole plane
};

// What is known of a plane beside its values.
struct PlaneKnowledge {
  const ProfilePlane* profile = nullptr;  // what errors cost; or null
  bool store_basis = false;               // the profile is this encoder's own: what is used of it goes into the archive
  std::span<const int8_t> token_classes{};  // [kv_head][token of the plane] or empty
};

// The cheapest of the transforms: none, Hadamard, the KLT of the context, the profile's basis; or the one asked for.
// With a profile all of them are measured at the steps that cost the same by it. A plane whose step would be outside
// what a decoder accepts gets lossless parameters.
ParameterChoice choose_parameters(const PlaneStatistics& stats, const StepRule& rule, const PlaneKnowledge& knowledge,
                                  TransformChoice transform, uint32_t low_rank);

}  // namespace kvpack
