// SPDX-License-Identifier: Apache-2.0
// Rotation frequencies of every scaling scheme, as one Rope: inv_freq[j] = base^(-2j / dims), then
//   linear   all frequencies divided by `factor` (arXiv 2306.15595)
//   YaRN     low frequencies divided by `factor`, high ones kept, a ramp between; a magnitude (arXiv 2309.00071)
//   Llama 3  like YaRN, with the ramp in wavelengths and no magnitude (transformers, modeling_rope_utils.py)
//   factors  frequency j divided by factors[j] (the rope_freqs tensor of a GGUF)
#pragma once

#include <cstdint>
#include <vector>

#include "formats/model_facts.h"

namespace kvpack {

struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kYarn, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;            // by how much the context is stretched
  double original_context = 0;  // tokens; YaRN and Llama 3
  double beta_fast = 32;        // YaRN: turns within the original context above which a frequency is kept
  double beta_slow = 1;         // YaRN: and below which it is fully divided
  bool whole_ramp = true;       // YaRN: the ramp's ends are rounded to whole pairs
  double low_freq_factor = 1;   // Llama 3
  double high_freq_factor = 4;  // Llama 3
  double magnitude = 1;         // of the rotated values
  std::vector<float> factors;   // [dims / 2], or empty
};

// YaRN's magnitude for a stretch by `factor`: 0.1 * weight * ln(factor) + 1.
double yarn_magnitude(double factor, double weight);

// `dims` rotated channels (even, > 0), base > 1. `factors`, when not empty, holds at least dims / 2 values.
Rope make_rope(RopeStyle style, uint32_t first_channel, uint32_t dims, double base, const RopeScaling& scaling);

}  // namespace kvpack
