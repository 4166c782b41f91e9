// SPDX-License-Identifier: Apache-2.0
// What a loss of values is expected to do to predictions, without asking a model: to second order, mean KL is half the
// squared error weighted by the sensitivity F, which is the identity in a profile's components:
//
//   KL = c x sum over planes, tokens, components of (token's weight x error^2) / number of components
//
// (uniform rounding with one step everywhere makes that c x step^2 / 12). A profile's unit is measured so that kvpack's
// `low` costs engine::kLowKl, which gives c. A first guess for every method alike: it knows nothing of attention sinks,
// on which F is not measured, and errors that are large or that tokens share are worse than it says.
#pragma once

#include <vector>

#include "cli/bench_methods.h"

namespace kvpack::cli {

class ErrorInComponents {
 public:
  // `file` and `profile` have to outlive it.
  ErrorInComponents(const BenchFile& file, const Profile& profile);

  // Mean of (weight x squared error) of the same file with other values, over the planes that the profile has; sinks
  // and values that are not finite left out.
  Result<double> of(const Bytes& restored) const;

 private:
  double of_plane(size_t plane, const KvView& restored) const;

  const BenchFile& file_;
  const Profile& profile_;
  std::vector<std::vector<float>> weights_;  // [plane][token * kv_heads + head], sinks 0, each head's mean 1
};

// Sets predicted_kl of every point that has component_error, by that of kvpack's `low` with the profile. None is set if
// that is not among them.
void predict_losses(std::vector<BenchPoint>& points);

}  // namespace kvpack::cli
