// SPDX-License-Identifier: Apache-2.0
// How far one set of predictions is from another: the numbers by which a lossy cache is judged.
#pragma once

#include <cstdint>
#include <vector>

#include "net/engine/llama_engine.h"

namespace kvpack::engine {

// Means over the rows; logarithms are natural.
struct PredictionDistance {
  double kl = 0;          // KL(reference || test), nats per token
  double delta_nll = 0;   // test's negative log-likelihood of the targets minus the reference's, nats per token
  double top1_share = 0;  // rows whose likeliest token is the same, 0 to 1
  double reference_nll = 0;
};

// Row i of both predicts targets[i]. Errors: invalid_argument when shapes differ or a target is not in the vocabulary.
Result<PredictionDistance> compare_predictions(const LogitMatrix& reference, const LogitMatrix& test,
                                               const std::vector<int32_t>& targets);

}  // namespace kvpack::engine
