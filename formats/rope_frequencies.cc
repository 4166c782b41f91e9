// SPDX-License-Identifier: Apache-2.0
#include "formats/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvpack {
namespace {

// The pair (as a real number) whose frequency makes `turns` turns within the original context.
double pair_with_turns(double turns, uint32_t dims, double base, double original_context) {
  return dims * std::log(original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
}

void scale_yarn(std::vector<double>& inv_freq, double base, const RopeScaling& scaling) {
  const uint32_t dims = static_cast<uint32_t>(inv_freq.size() * 2);
  double low = pair_with_turns(scaling.beta_fast, dims, base, scaling.original_context);
  double high = pair_with_turns(scaling.beta_slow, dims, base, scaling.original_context);
  if (scaling.whole_ramp) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1.0);
  for (size_t j = 0; j < inv_freq.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / std::max(0.001, high - low), 0.0, 1.0);
    inv_freq[j] *= ramp / scaling.factor + (1 - ramp);
  }
}

void scale_llama3(std::vector<double>& inv_freq, const RopeScaling& scaling) {
  for (double& frequency : inv_freq) {
    const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
    if (turns < scaling.low_freq_factor) {
      frequency /= scaling.factor;
    } else if (turns <= scaling.high_freq_factor) {
      const double kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
      frequency = (1 - kept) * frequency / scaling.factor + kept * frequency;
    }
  }
}

}  // namespace

double yarn_magnitude(double factor, double weight) { return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1; }

Rope make_rope(RopeStyle style, uint32_t first_channel, uint32_t dims, double base, const RopeScaling& scaling) {
  Rope rope;
  rope.style = style;
  rope.first_channel = first_channel;
  rope.base = base;
  rope.magnitude = scaling.magnitude;
  rope.inv_freq.resize(dims / 2);
  for (size_t j = 0; j < rope.inv_freq.size(); ++j) {
    rope.inv_freq[j] = std::pow(base, -2.0 * static_cast<double>(j) / dims);
    if (!scaling.factors.empty()) rope.inv_freq[j] /= scaling.factors[j];
  }
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& frequency : rope.inv_freq) frequency /= scaling.factor;
      break;
    case RopeScaling::Kind::kYarn:
      scale_yarn(rope.inv_freq, base, scaling);
      break;
    case RopeScaling::Kind::kLlama3:
      scale_llama3(rope.inv_freq, scaling);
      break;
  }
  return rope;
}

}  // namespace kvpack
