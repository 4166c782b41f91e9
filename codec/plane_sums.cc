// SPDX-License-Identifier: Apache-2.0
#include "codec/plane_sums.h"

#include <Eigen/Dense>
#include <cassert>

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<float> divided(std::span<const float> sums, uint32_t by) {
  std::vector<float> out(sums.begin(), sums.end());
  for (float& value : out) value /= static_cast<float>(by);
  return out;
}

}  // namespace

PlaneSums::PlaneSums(uint32_t kv_heads, uint32_t head_dim)
    : kv_heads_(kv_heads),
      head_dim_(head_dim),
      mean_(size_t{kv_heads} * head_dim),
      covariance_(size_t{kv_heads} * head_dim * head_dim) {}

void PlaneSums::add(std::span<const float> rows) {
  const Eigen::Index channels = Eigen::Index{kv_heads_} * head_dim_;
  const Eigen::Index tokens = static_cast<Eigen::Index>(rows.size()) / channels;
  assert(tokens > 0 && rows.size() == static_cast<size_t>(tokens * channels));
  const Eigen::Map<const Matrix> all(rows.data(), tokens, channels);
  // In double: a mean may be hundreds of deviations.
  const Eigen::RowVectorXf mean = (all.cast<double>().colwise().sum() / static_cast<double>(tokens)).cast<float>();
  Eigen::Map<Eigen::RowVectorXf>(mean_.data(), channels) += mean;
  for (uint32_t head = 0; head < kv_heads_; ++head) {
    const Eigen::Index first = Eigen::Index{head} * head_dim_;
    const Matrix centred = all.middleCols(first, head_dim_).rowwise() - mean.segment(first, head_dim_);
    Eigen::Map<Matrix>(covariance_.data() + first * head_dim_, head_dim_, head_dim_) +=
        centred.transpose() * centred / static_cast<float>(tokens);
  }
  ++texts_;
}

std::vector<float> PlaneSums::mean() const { return divided(mean_, texts_); }

std::vector<float> PlaneSums::covariance(uint32_t head) const {
  const size_t size = size_t{head_dim_} * head_dim_;
  return divided(std::span(covariance_).subspan(head * size, size), texts_);
}

}  // namespace kvpack
