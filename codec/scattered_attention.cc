// SPDX-License-Identifier: Apache-2.0
#include "codec/scattered_attention.h"

#include <Eigen/Dense>
#include <cassert>

#include "codec/parallel.h"

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <typename M>
using HeadRows = Eigen::Map<M, 0, Eigen::OuterStride<>>;

// Asking tokens whose scores are held at once: neighbours see nearly the same tokens, so little is computed in vain.
constexpr size_t kBlock = 32;

// Rows of one head in [token][head][dim].
template <typename M, typename Float>
HeadRows<M> head_rows(Float* values, size_t tokens, uint32_t heads, uint32_t head, uint32_t dim) {
  return HeadRows<M>(values + size_t{head} * dim, static_cast<Eigen::Index>(tokens), dim,
                     Eigen::OuterStride<>(Eigen::Index{heads} * dim));
}

// Turns a row of scores into shares of the tokens that its token sees; zero elsewhere.
template <typename Row>
void mask_and_normalise(Row row, uint32_t token, uint32_t sliding_window) {
  const Eigen::Index end = Eigen::Index{token} + 1;
  const Eigen::Index first = sliding_window > 0 && end > sliding_window ? end - sliding_window : 0;
  auto seen = row.segment(first, end - first);
  seen = (seen.array() - seen.maxCoeff()).exp().matrix();
  seen /= seen.sum();
  row.head(first).setZero();
  row.tail(row.size() - end).setZero();
}

}  // namespace

std::vector<float> scattered_attention(const AttentionLayer& layer, std::span<const uint32_t> tokens,
                                       std::span<const float> query, std::span<const float> key,
                                       std::span<const float> value, unsigned threads, std::vector<float>* received) {
  const size_t cached = key.size() / (size_t{layer.kv_heads} * layer.key_dim);
  assert(tokens.empty() || tokens.back() < cached);
  std::vector<float> output(tokens.size() * layer.query_heads * layer.value_dim);
  std::vector<Eigen::VectorXf> sums(layer.query_heads);
  parallel_for(layer.query_heads, threads, [&](uint64_t at) {
    const auto head = static_cast<uint32_t>(at);
    const uint32_t kv_head = head / layer.group();
    const auto q = head_rows<const Matrix>(query.data(), tokens.size(), layer.query_heads, head, layer.key_dim);
    const auto k = head_rows<const Matrix>(key.data(), cached, layer.kv_heads, kv_head, layer.key_dim);
    const auto v = head_rows<const Matrix>(value.data(), cached, layer.kv_heads, kv_head, layer.value_dim);
    auto out = head_rows<Matrix>(output.data(), tokens.size(), layer.query_heads, head, layer.value_dim);
    if (received != nullptr) sums[head] = Eigen::VectorXf::Zero(static_cast<Eigen::Index>(cached));
    for (size_t first = 0; first < tokens.size(); first += kBlock) {
      const auto begin = static_cast<Eigen::Index>(first);
      const auto count = static_cast<Eigen::Index>(std::min(kBlock, tokens.size() - first));
      const Eigen::Index seen = Eigen::Index{tokens[first + static_cast<size_t>(count) - 1]} + 1;
      Matrix scores = (q.middleRows(begin, count) * k.topRows(seen).transpose()) * layer.score_scale;
      for (Eigen::Index i = 0; i < count; ++i) {
        mask_and_normalise(scores.row(i), tokens[first + static_cast<size_t>(i)], layer.sliding_window);
      }
      out.middleRows(begin, count).noalias() = scores * v.topRows(seen);
      if (received != nullptr) sums[head].head(seen) += scores.colwise().sum().transpose();
    }
  });
  if (received != nullptr) {
    received->resize(cached);
    for (const Eigen::VectorXf& sum : sums) {
      for (size_t token = 0; token < cached; ++token) (*received)[token] += sum[static_cast<Eigen::Index>(token)];
    }
  }
  return output;
}

}  // namespace kvpack
