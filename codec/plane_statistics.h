// SPDX-License-Identifier: Apache-2.0
// What the encoder measures of one plane before it chooses parameters: means, covariance, a sample of rows. Computed
// once per encode, whatever the step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/kv_tensor.h"
#include "formats/model_facts.h"

namespace kvpack {

inline constexpr uint32_t kMaxKltDim = 256;  // a wider head's KLT costs more bytes than it saves
// Rows, evenly spread over the context, that mean and covariance are measured on, and those of them for costs.
inline constexpr uint32_t kMeasuredTokens = 1024;
inline constexpr uint32_t kSampleTokens = 512;

struct PlaneStatistics {
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint64_t tokens = 0;            // of the view, sinks left out
  std::vector<double> mean;       // [channel], RoPE undone, values that are not finite counted as zero
  std::vector<double> deviation;  // [kv_head] root mean square of the values minus their means
  // [kv_head] as klt_of gives them; empty if they were not asked for, head_dim is too large or tokens are too few.
  std::vector<std::vector<float>> klt;
  std::vector<float> sample;  // [sample token][channel], RoPE undone, mean not removed
  uint32_t sample_tokens = 0;
  std::vector<uint32_t> sample_token;  // [sample token] the view's token
  uint32_t view_tokens = 0;            // of the view, sinks counted
};

// `sinks`: tokens of the plane to leave out, ascending.
PlaneStatistics measure_plane(const KvView& view, const Rope* rope, std::span<const int32_t> positions,
                              std::span<const uint32_t> sinks, bool with_klt);

// The KLT of one head: eigenvectors of its covariance, rows [component][head_dim], largest first. From the sample, if
// measure_plane was not asked for it.
std::vector<float> klt_of(const PlaneStatistics& stats, uint32_t head);
bool can_have_klt(const PlaneStatistics& stats);

// Euclidean norm of every token's values, [token].
std::vector<float> token_norms(const KvView& view);

}  // namespace kvpack
