// SPDX-License-Identifier: Apache-2.0
// A lesser profile from KV files alone, where no engine can run the model: means, the KLT of every head, and guesses
// for what only queries could tell:
//
//   sensitivity   an error matters in proportion to the deviation of its head; with the output projections, a value's
//                 error by what they pass on, all layers alike
//   token weight  falls with the distance from the end
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "codec/plane_sums.h"
#include "codec/profile.h"
#include "formats/kv_file.h"

namespace kvpack {

class ProfileFitter {
 public:
  // `output_gram`, by layer: [kv_head][value_dim][value_dim], W^T W summed over the query heads that share the KV head;
  // layers without one are guessed.
  ProfileFitter(ModelFacts facts, std::map<uint32_t, std::vector<float>> output_gram);

  // Errors: invalid_argument (no planes, too few tokens, a value that is not finite, or planes of other shapes than the
  // files before).
  Status add(const KvFile& file);

  // Names and fingerprint are those of the facts. Error: invalid_argument if nothing was added.
  Result<Profile> finish() const;

 private:
  Status add_plane(const KvFile& file, const KvPlane& plane, const ModelFacts& facts);
  std::vector<float> guess_sensitivity(uint32_t layer, Side side, const PlaneSums& sums, uint32_t head) const;

  ModelFacts facts_;
  std::map<uint32_t, std::vector<float>> output_gram_;
  std::map<std::pair<uint32_t, Side>, PlaneSums> planes_;  // by layer, key before value
  uint32_t files_ = 0;
};

}  // namespace kvpack
