// SPDX-License-Identifier: Apache-2.0
// A profile says which errors cost equally much, but how much they cost differs from model to model: what the residual
// stream's relative error does to predictions is the model's own. So the unit is measured: a context goes through the
// codec at `low` and back into the engine, and the profile is scaled until that costs the KL that `low` stands for, in
// the one of two texts that loses more.
#pragma once

#include <string>
#include <vector>

#include "codec/profile.h"
#include "formats/model_facts.h"
#include "formats/result.h"

namespace kvpack::engine {

inline constexpr double kLowKl = 0.015;  // nats per token at `low`; medium, a third of the step, then costs about .0015

struct CalibrationOptions {
  uint32_t window_tokens = 2304;  // of which the last ninth is predicted
  unsigned threads = 0;           // 0: one per core
};

struct Calibration {
  double scale = 1;  // that the profile was multiplied by
  double kl = 0;     // measured at `low` afterwards, of the worse text, above the engine's own floor
  double floor = 0;  // KL of errors too small to matter: quantized weights round activations
};

// Scales `profile` in place. The first and the last text that fill a window are used; invalid_argument if none does.
// Other errors: the engine's, the codec's.
Result<Calibration> calibrate_profile(Profile& profile, const std::string& model_path, const ModelFacts& facts,
                                      const std::vector<std::string>& texts, const CalibrationOptions& options);

// One step in every component then stands for `scale` times the error that it stood for.
void scale_profile(Profile& profile, double scale);

}  // namespace kvpack::engine
