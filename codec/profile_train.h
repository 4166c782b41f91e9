// SPDX-License-Identifier: Apache-2.0
// A profile from what forward passes show: queries, keys, values, residual norms, output projections. No gradients,
// no engine, no files; whoever runs the model hands in one layer of one text at a time, and only sums are kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "codec/attention_sensitivity.h"
#include "codec/plane_sums.h"
#include "codec/profile.h"
#include "codec/token_weight_fit.h"

namespace kvpack {

struct ProfileTrainOptions {
  uint64_t seed = 0;
  unsigned threads = 0;           // 0: one per core
  uint32_t draws = 2;             // tokens sampled per query for the keys' sensitivity
  double key_regulariser = 0.02;  // of the sensitivity, relative to its mean diagonal
  double value_regulariser = 0.02;
  double key_gain = 2;  // keys come out too insensitive beside values, compared with gradients
  double ridge = 30;    // of the token weights, on standardised features
};

class ProfileTrainer {
 public:
  // `layers` in ascending order, each with at least one head. Errors of add(): invalid_argument (a window too short
  // or of the wrong size, a value that is not finite).
  ProfileTrainer(std::vector<AttentionLayer> layers, const ProfileTrainOptions& options);

  const std::vector<AttentionLayer>& layers() const { return layers_; }

  // One text in layers()[index]. Returns the attention's output, [query][query_head][value_dim].
  Result<std::vector<float>> add(size_t index, const LayerWindow& window);

  // Planes and token weights; who and how (names, method) is the caller's to fill in. Error: invalid_argument if a
  // layer was given no text.
  Result<Profile> finish() const;

 private:
  struct HeadSums {
    std::vector<float> sensitivity[2];  // [side]: [dim][dim], per token and query, summed over windows
    TokenWeightFit token_weights;
  };
  struct LayerSums {
    uint32_t windows = 0;
    double cached_tokens = 0;           // per window, summed
    std::vector<PlaneSums> statistics;  // [side]
    std::vector<HeadSums> heads;        // [kv_head]
  };

  void add_token_weights(size_t index, const std::vector<float>& keys, uint32_t tokens, const LayerSensitivity& found);
  ProfilePlane make_plane(size_t index, Side side, double unit) const;

  std::vector<AttentionLayer> layers_;
  ProfileTrainOptions options_;
  std::vector<LayerSums> sums_;  // [layers() index]
};

}  // namespace kvpack
