// SPDX-License-Identifier: Apache-2.0
// A plane's sample of rows in one head, transformed: what parameters are chosen by. Its tokens stand in slots by token
// class, so that those of one class lie together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/class_choice.h"
#include "codec/plane_statistics.h"
#include "codec/transform.h"

namespace kvpack {

// A component this far below the step rounds to zero almost always: leaving it out costs less error than rounding does.
inline constexpr double kDropDeviation = 0.15;

class HeadSample {
 public:
  // `token_classes` [kv_head][token of the plane], or empty: all in class 0. `stats` must outlive the sample.
  HeadSample(const PlaneStatistics& stats, uint32_t head, std::span<const int8_t> token_classes);

  // Makes the components of the rows less `mean` [head_dim].
  void transform(const ForwardTransform& forward, std::span<const float> mean);
  void subtract(uint32_t component, float offset);
  // [slot]
  std::span<const float> component(uint32_t k) const { return {&components_[size_t{k} * padded_], slots_}; }
  double squares(uint32_t k) const;

  // How many components, from the first, are worth coding at this step: the others round to zero almost always, in the
  // values as in the mean beside the profile's (`mean`, [component]).
  uint32_t live_components(float step, std::span<const float> mean) const;

  // Rounds the first `count` components to this step.
  void quantize(float step, uint32_t count);
  // The scale index of a component that was quantized, as ComponentHistogram estimates it.
  int estimated_scale(uint32_t k, int levels) const;
  void count(uint32_t k, ComponentHistogram& histogram) const;

 private:
  struct Run {
    int token_class = 0;
    uint32_t first = 0;
    uint32_t count = 0;
  };

  const PlaneStatistics& stats_;
  uint32_t head_;
  uint32_t slots_;
  uint32_t padded_;                   // to whole groups of 32
  std::vector<uint32_t> sample_row_;  // [slot]
  std::vector<Run> runs_;
  std::vector<float> components_;  // [component][padded slot]
  std::vector<int32_t> q_;         // the same
};

}  // namespace kvpack
