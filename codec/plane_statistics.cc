// SPDX-License-Identifier: Apache-2.0
#include "codec/plane_statistics.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "codec/rope.h"

namespace kvpack {
namespace {

constexpr uint32_t kBlockTokens = 256;

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Calls body(first token, rows) for blocks of un-rotated, finite rows; sinks are taken out by the caller.
template <typename Body>
void for_each_block(const KvView& view, const Rope* rope, std::span<const int32_t> positions, const Body& body) {
  std::vector<float> rows;
  for (uint32_t first = 0; first < view.tokens; first += kBlockTokens) {
    const uint32_t count = std::min(kBlockTokens, view.tokens - first);
    rows.resize(size_t{count} * view.channels());
    load_values(view, first, count, rows.data());
    for (float& value : rows) {
      if (!std::isfinite(value)) value = 0;
    }
    if (rope != nullptr) RopeRotation(*rope, positions.subspan(first, count)).undo(rows, view.kv_heads, view.head_dim);
    body(first, count, rows);
  }
}

bool is_sink(std::span<const uint32_t> sinks, uint32_t token) {
  return std::binary_search(sinks.begin(), sinks.end(), token);
}

std::vector<float> eigenvectors_of(const Eigen::MatrixXd& covariance) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(covariance);
  const Eigen::Index n = covariance.rows();
  std::vector<float> rows(static_cast<size_t>(n * n));
  for (Eigen::Index k = 0; k < n; ++k) {
    for (Eigen::Index d = 0; d < n; ++d) {
      rows[static_cast<size_t>(k * n + d)] = static_cast<float>(solver.eigenvectors()(d, n - 1 - k));
    }
  }
  return rows;
}

}  // namespace

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

  // Sums are taken around the first block's mean: means may be hundreds of deviations.
  std::vector<double> pivot(channels, 0.0);
  std::vector<double> sum(channels, 0.0);
  std::vector<double> squares(channels, 0.0);
  std::vector<Eigen::MatrixXd> outer(with_klt ? view.kv_heads : 0, Eigen::MatrixXd::Zero(dim, dim));
  const uint32_t stride = std::max(1u, view.tokens / kSampleTokens);
  RowMatrix centred;
  for_each_block(view, rope, positions, [&](uint32_t first, uint32_t count, std::vector<float>& rows) {
    if (first == 0) {
      for (uint32_t t = 0; t < count; ++t) {
        for (uint32_t c = 0; c < channels; ++c) pivot[c] += rows[size_t{t} * channels + c] / count;
      }
    }
    for (uint32_t t = 0; t < count; ++t) {
      float* row = &rows[size_t{t} * channels];
      const bool sink = is_sink(sinks, first + t);
      if (!sink && (first + t) % stride == 0 && stats.sample_tokens < kSampleTokens) {
        stats.sample.insert(stats.sample.end(), row, row + channels);
        stats.sample_token.push_back(first + t);
        ++stats.sample_tokens;
      }
      for (uint32_t c = 0; c < channels; ++c) {
        const double off = sink ? 0.0 : row[c] - pivot[c];
        sum[c] += off;
        squares[c] += off * off;
        row[c] = static_cast<float>(off);
      }
    }
    for (uint32_t head = 0; head < outer.size(); ++head) {
      const Eigen::Map<const RowMatrix> all(rows.data(), count, channels);
      centred = all.middleCols(head * dim, dim);
      outer[head] += (centred.transpose() * centred).cast<double>();
    }
  });

  const double n = static_cast<double>(std::max<uint64_t>(1, stats.tokens));
  stats.mean.resize(channels);
  stats.deviation.assign(view.kv_heads, 0.0);
  for (uint32_t c = 0; c < channels; ++c) {
    const double off = sum[c] / n;
    stats.mean[c] = pivot[c] + off;
    stats.deviation[c / dim] += std::max(0.0, squares[c] / n - off * off) / dim;
  }
  for (double& deviation : stats.deviation) deviation = std::sqrt(deviation);
  for (uint32_t head = 0; head < outer.size(); ++head) {
    const Eigen::Map<const Eigen::VectorXd> off(&sum[size_t{head} * dim], dim);
    stats.klt.push_back(eigenvectors_of(outer[head] / n - (off / n) * (off / n).transpose()));
  }
  return stats;
}

std::vector<float> token_norms(const KvView& view) {
  std::vector<float> norms(view.tokens);
  std::vector<float> row(view.channels());
  for (uint32_t token = 0; token < view.tokens; ++token) {
    load_values(view, token, 1, row.data());
    double squares = 0;
    for (const float value : row) squares += std::isfinite(value) ? double{value} * double{value} : 0.0;
    norms[token] = static_cast<float>(std::sqrt(squares));
  }
  return norms;
}

}  // namespace kvpack
