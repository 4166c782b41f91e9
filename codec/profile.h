// SPDX-License-Identifier: Apache-2.0
// What kvpack knows of one model beyond its facts: a basis per (layer, side, KV head) in which one step serves the whole
// archive, channel means, and a predictor of token weights from keys. Trained once per model (profile_train.h), kept in
// a .kvprofile file (profile_file.h; FORMAT.md, "Profile"), named in archives by its hash.
//
//   value[d] = mean[d] + sum_k component[k] * rows[k][d] * scale[k],   keys with RoPE undone
//
// The rows of a basis are scaled so that an error of 1 in any one component of any plane of the model is expected to
// change the model's predictions equally much (the sensitivity F, an approximation of the Fisher matrix, is the
// identity there), and ordered by falling deviation, so that what rounds to nothing stands last.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "codec/transform.h"
#include "formats/kv_tensor.h"

namespace kvpack {

struct ProfilePlane {
  uint32_t layer = 0;
  Side side = Side::kKey;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  std::vector<float> mean;              // [channel]
  std::vector<HeadMatrix> basis;        // [kv_head], head_dim components each
  std::vector<float> deviation;         // [kv_head][component] of the calibration texts' components
  std::vector<float> sensitivity;       // [kv_head] mean diagonal of F, per squared unit of a value
};

// ln(weight) of a token in one (layer, KV head), up to a constant:
//   bias + key . w[0..D) + |key| w[D] + ln(tokens - position) w[D+1] + ln(position + 1) w[D+2]
//        + position / tokens w[D+3],      key: RoPE undone, mean not removed
struct TokenWeightModel {
  uint32_t layer = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  std::vector<float> weights;  // [kv_head][head_dim + 5], the bias last
};

struct Profile {
  std::string model_name;
  std::string model_architecture;
  std::string model_fingerprint;      // as in ModelFacts
  std::string method;                 // "forward passes, 6 texts of 2304 tokens, seed 0" or "fit, 3 state files"
  std::vector<ProfilePlane> planes;   // by layer, key before value
  std::vector<TokenWeightModel> token_weights;  // by layer; empty if none could be learned

  const ProfilePlane* plane(uint32_t layer, Side side) const;
  const TokenWeightModel* token_model(uint32_t layer) const;
};

}  // namespace kvpack
