// SPDX-License-Identifier: Apache-2.0
// Trains a profile of a GGUF with the llama.cpp in process: runs windows of text, shows each layer to ProfileTrainer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "codec/profile.h"
#include "formats/result.h"

namespace kvpack::engine {

struct ProfileRunOptions {
  uint64_t seed = 0;              // which windows of the texts, which tokens are sampled
  uint32_t window_tokens = 2304;  // of which the last ninth, at most 256, ask; no longer than the model's context
  uint32_t windows = 6;           // at most
  unsigned threads = 0;           // 0: one per core
  bool flash_attention = true;    // how llama.cpp computes; what is learned does not depend on it
  std::function<void(uint64_t done, uint64_t total, const std::string& phase)> progress;
};

struct ProfileRun {
  Profile profile;
  uint32_t windows = 0;
  uint32_t window_tokens = 0;
  uint32_t texts = 0;          // that gave at least one window
  double attention_error = 0;  // largest relative error, of any layer, of the attention that was recomputed
};

// `texts` are cut into windows; all of them are used before any gives a second window. Errors: invalid_argument (texts
// shorter than one window), unsupported (an architecture whose attention is not understood: named, with what differs),
// io, corrupt.
Result<ProfileRun> train_profile(const std::string& model_path, const std::vector<std::string>& texts,
                                 const ProfileRunOptions& options);

}  // namespace kvpack::engine
