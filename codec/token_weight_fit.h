// SPDX-License-Identifier: Apache-2.0
// Learns to predict a token's weight from its key: ridge regression on standardised features, summed up window by
// window so that nothing but a (features x features) matrix is kept.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvpack {

// The features of TokenWeightModel (profile.h): the key, its norm, ln(tokens - position), ln(position + 1),
// position / tokens.
inline constexpr uint32_t kTokenPlaceFeatures = 4;

class TokenWeightFit {
 public:
  // `places` false: only the key, its norm and the distance from the end count (the position's own two get weight 0).
  explicit TokenWeightFit(uint32_t head_dim, bool places = true);

  // Keys [token][head_dim], RoPE undone, of tokens first, first + 1, ... of `tokens`; the logarithm of each one's
  // weight.
  void add(std::span<const float> keys, uint32_t first, uint32_t tokens, std::span<const double> log_weights);

  // [head_dim + 5], the bias last. All zero if nothing was added.
  std::vector<float> solve(double ridge) const;

 private:
  uint32_t head_dim_;
  bool places_;
  double count_ = 0;
  std::vector<double> products_;  // [feature][feature], of features and the target (last)
  std::vector<double> sums_;      // [feature], and the target
};

// What the model says: ln(weight) of a token, up to a constant. `weights` as from solve().
double predict_log_weight(std::span<const float> weights, std::span<const float> key, uint32_t position,
                          uint32_t tokens);

}  // namespace kvpack
