// SPDX-License-Identifier: Apache-2.0
#include "net/engine/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace kvpack::engine {
namespace {

// log(sum(exp(logits))), in double, with the largest logit taken out so that nothing overflows.
double log_sum_exp(const float* logits, uint32_t count) {
  const double largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (uint32_t i = 0; i < count; ++i) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum);
}

double kl_of_row(const float* p_logits, double p_norm, const float* q_logits, double q_norm, uint32_t count) {
  double kl = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const double log_p = p_logits[i] - p_norm;
    const double log_q = q_logits[i] - q_norm;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  return kl;
}

}  // namespace

Result<PredictionDistance> compare_predictions(const LogitMatrix& reference, const LogitMatrix& test,
                                               const std::vector<int32_t>& targets) {
  const uint32_t vocabulary = reference.vocabulary;
  if (vocabulary == 0 || vocabulary != test.vocabulary || reference.rows() != test.rows() ||
      reference.rows() != targets.size() || targets.empty()) {
    return invalid_argument(fmt::format("predictions of {} x {} and {} x {} for {} targets", reference.rows(),
                                        vocabulary, test.rows(), test.vocabulary, targets.size()));
  }
  PredictionDistance total;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] < 0 || static_cast<uint32_t>(targets[i]) >= vocabulary) {
      return invalid_argument(fmt::format("target {} is token {} of {}", i, targets[i], vocabulary));
    }
    const float* p = reference.row(i);
    const float* q = test.row(i);
    const double p_norm = log_sum_exp(p, vocabulary);
    const double q_norm = log_sum_exp(q, vocabulary);
    total.kl += kl_of_row(p, p_norm, q, q_norm, vocabulary);
    total.reference_nll += p_norm - p[targets[i]];
    total.delta_nll += (q_norm - q[targets[i]]) - (p_norm - p[targets[i]]);
    total.top1_share += std::max_element(p, p + vocabulary) - p == std::max_element(q, q + vocabulary) - q ? 1.0 : 0.0;
  }
  const auto rows = static_cast<double>(targets.size());
  return PredictionDistance{total.kl / rows, total.delta_nll / rows, total.top1_share / rows,
                            total.reference_nll / rows};
}

}  // namespace kvpack::engine
