// SPDX-License-Identifier: Apache-2.0
#include "codec/plane_statistics.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "codec/rope.h"
#include "codec/row_values.h"

namespace kvpack {
namespace {

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// At most `most` tokens that are no sinks, evenly spread.
std::vector<uint32_t> spread_tokens(uint32_t tokens, std::span<const uint32_t> sinks, uint32_t most) {
  const uint32_t stride = std::max(1u, (tokens + most - 1) / most);
  std::vector<uint32_t> chosen;
  for (uint32_t token = 0; token < tokens && chosen.size() < most; token += stride) {
    if (!std::binary_search(sinks.begin(), sinks.end(), token)) chosen.push_back(token);
  }
  return chosen;
}

// Rows of these tokens, RoPE undone, what is not finite zero.
std::vector<float> rows_of(const KvView& view, const Rope* rope, std::span<const int32_t> positions,
                           std::span<const uint32_t> tokens) {
  const uint32_t channels = view.channels();
  std::vector<float> rows(tokens.size() * channels);
  std::vector<int32_t> of_rows;
  for (size_t i = 0; i < tokens.size();) {
    size_t run = 1;
    while (i + run < tokens.size() && tokens[i + run] == tokens[i] + run) ++run;
    load_rows(view, tokens[i], static_cast<uint32_t>(run), &rows[i * channels]);
    i += run;
  }
  if (!all_finite(rows.data(), rows.size())) {
    for (float& value : rows) value = std::isfinite(value) ? value : 0.0f;
  }
  if (rope == nullptr) return rows;
  for (const uint32_t token : tokens) of_rows.push_back(positions[token]);
  // The planes of a token set share their sample, so its sines are kept.
  cached_rotation(*rope, of_rows).undo(rows, view.kv_heads, view.head_dim);
  return rows;
}

// (In f32: the rows will be int8, and what they are is inverted exactly.)
std::vector<float> eigenvectors_of(const Eigen::MatrixXf& covariance) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXf> solver(covariance);
  const Eigen::Index n = covariance.rows();
  std::vector<float> rows(static_cast<size_t>(n * n));
  for (Eigen::Index k = 0; k < n; ++k) {
    for (Eigen::Index d = 0; d < n; ++d) {
      rows[static_cast<size_t>(k * n + d)] = solver.eigenvectors()(d, n - 1 - k);
    }
  }
  return rows;
}

// Of rows less their mean.
std::vector<float> klt_of_rows(const RowMatrix& centred) {
  Eigen::MatrixXf outer = Eigen::MatrixXf::Zero(centred.cols(), centred.cols());
  outer.selfadjointView<Eigen::Lower>().rankUpdate(centred.transpose());
  return eigenvectors_of(outer / static_cast<float>(centred.rows()));
}

}  // namespace

bool can_have_klt(const PlaneStatistics& stats) {
  return stats.head_dim <= kMaxKltDim && stats.sample_tokens >= stats.head_dim;
}

std::vector<float> klt_of(const PlaneStatistics& stats, uint32_t head) {
  if (!stats.klt.empty()) return stats.klt[head];
  const uint32_t channels = stats.kv_heads * stats.head_dim;
  const Eigen::Index first = Eigen::Index{head} * stats.head_dim;
  const Eigen::Map<const RowMatrix> sample(stats.sample.data(), stats.sample_tokens, channels);
  const Eigen::Map<const Eigen::RowVectorXd> mean(&stats.mean[static_cast<size_t>(first)], stats.head_dim);
  return klt_of_rows((sample.middleCols(first, stats.head_dim).cast<double>().rowwise() - mean).cast<float>());
}

PlaneStatistics measure_plane(const KvView& view, const Rope* rope, std::span<const int32_t> positions,
                              std::span<const uint32_t> sinks, bool with_klt) {
  PlaneStatistics stats;
  stats.kv_heads = view.kv_heads;
  stats.head_dim = view.head_dim;
  stats.view_tokens = view.tokens;
  stats.tokens = view.tokens - sinks.size();
  const uint32_t channels = view.channels();
  const uint32_t dim = view.head_dim;
  with_klt = with_klt && dim <= kMaxKltDim && stats.tokens >= dim;

  const std::vector<uint32_t> measured = spread_tokens(view.tokens, sinks, kMeasuredTokens);
  const std::vector<float> rows = rows_of(view, rope, positions, measured);
  const Eigen::Index count = static_cast<Eigen::Index>(measured.size());
  const Eigen::Map<const RowMatrix> all(rows.data(), count, channels);
  stats.deviation.assign(view.kv_heads, 0.0);
  stats.mean.assign(channels, 0.0);
  if (count > 0) {
    for (size_t i = 0; i < rows.size(); i += channels) {
      for (uint32_t c = 0; c < channels; ++c) stats.mean[c] += double{rows[i + c]};
    }
    for (double& mean : stats.mean) mean /= static_cast<double>(count);
  }
  for (uint32_t head = 0; head < view.kv_heads && count > 0; ++head) {
    const Eigen::Map<const Eigen::RowVectorXd> mean(&stats.mean[size_t{head} * dim], dim);
    // Centred in double: a mean may be hundreds of deviations.
    const RowMatrix centred =
        (all.middleCols(Eigen::Index{head} * dim, dim).cast<double>().rowwise() - mean).cast<float>();
    stats.deviation[head] = std::sqrt(double{centred.squaredNorm()} / static_cast<double>(count) / dim);
    if (!with_klt) continue;
    stats.klt.push_back(klt_of_rows(centred));
  }
  // The sample for costs: every n-th of these.
  const size_t every = (measured.size() + kSampleTokens - 1) / kSampleTokens;
  for (size_t i = 0; i < measured.size(); i += every) {
    stats.sample.insert(stats.sample.end(), rows.begin() + static_cast<std::ptrdiff_t>(i * channels),
                        rows.begin() + static_cast<std::ptrdiff_t>((i + 1) * channels));
    stats.sample_token.push_back(measured[i]);
  }
  stats.sample_tokens = static_cast<uint32_t>(stats.sample_token.size());
  return stats;
}

std::vector<float> token_norms(const KvView& view) {
  constexpr uint32_t kBlockTokens = 32;
  constexpr uint32_t kChains = 16;
  const uint32_t channels = view.channels();
  std::vector<float> norms(view.tokens);
  std::vector<float> rows(size_t{kBlockTokens} * channels);
  for (uint32_t first = 0; first < view.tokens; first += kBlockTokens) {
    const uint32_t count = std::min(kBlockTokens, view.tokens - first);
    load_rows(view, first, count, rows.data());
    for (uint32_t token = 0; token < count; ++token) {
      const float* row = &rows[size_t{token} * channels];
      float sum[kChains] = {};
      uint32_t c = 0;
      for (; c + kChains <= channels; c += kChains) {
        for (uint32_t k = 0; k < kChains; ++k) sum[k] += row[c + k] * row[c + k];
      }
      for (; c < channels; ++c) sum[0] += row[c] * row[c];
      double squares = 0;
      for (const float of_chain : sum) squares += double{of_chain};
      if (!std::isfinite(squares)) {
        squares = 0;
        for (c = 0; c < channels; ++c) squares += std::isfinite(row[c]) ? double{row[c]} * double{row[c]} : 0.0;
      }
      norms[first + token] = static_cast<float>(std::sqrt(squares));
    }
  }
  return norms;
}

}  // namespace kvpack
