// SPDX-License-Identifier: Apache-2.0
#include "codec/low_rank.h"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <cmath>

#include "formats/half.h"

namespace kvpack {
namespace {

std::vector<uint16_t> to_f16(const Eigen::MatrixXf& matrix) {
  std::vector<uint16_t> out;
  out.reserve(static_cast<size_t>(matrix.size()));
  for (Eigen::Index r = 0; r < matrix.rows(); ++r) {
    for (Eigen::Index c = 0; c < matrix.cols(); ++c) out.push_back(f32_to_f16(matrix(r, c)));
  }
  return out;
}

Result<std::vector<uint16_t>> read_factor(ByteReader& in, uint64_t count) {
  KVPACK_ASSIGN_OR_RETURN(ByteSpan raw, in.take(2 * count, "low-rank factor"));
  std::vector<uint16_t> factor(count);
  std::memcpy(factor.data(), raw.data(), raw.size());
  for (const uint16_t half : factor) {
    if (!std::isfinite(f16_to_f32(half))) return corrupt("a low-rank factor is not finite");
  }
  return factor;
}

}  // namespace

LowRankFactors fit_low_rank(std::span<const float> rows, uint32_t tokens, uint32_t channels, uint32_t rank) {
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const RowMajor> x(rows.data(), tokens, channels);
  LowRankFactors factors;
  factors.rank = std::min({rank, tokens, channels});
  const Eigen::BDCSVD<Eigen::MatrixXf> svd(x, Eigen::ComputeThinU | Eigen::ComputeThinV);
  // The singular value is split evenly, so that both factors stay inside f16's range.
  const Eigen::VectorXf root = svd.singularValues().head(factors.rank).cwiseSqrt();
  factors.tokens = to_f16(svd.matrixU().leftCols(factors.rank) * root.asDiagonal());
  factors.channels = to_f16(root.asDiagonal() * svd.matrixV().leftCols(factors.rank).transpose());
  return factors;
}

void write_low_rank(const LowRankFactors& factors, ByteWriter& out) {
  out.write(static_cast<uint8_t>(factors.rank));
  out.write_bytes(std::as_bytes(std::span(factors.tokens)));
  out.write_bytes(std::as_bytes(std::span(factors.channels)));
}

Result<LowRankFactors> read_low_rank(ByteReader& in, uint32_t tokens, uint32_t channels, uint32_t rank) {
  LowRankFactors factors;
  KVPACK_ASSIGN_OR_RETURN(uint8_t stored_rank, in.read<uint8_t>("low rank"));
  if (stored_rank > rank) return corrupt(fmt::format("low rank {}, at most {} expected", stored_rank, rank));
  factors.rank = stored_rank;
  KVPACK_ASSIGN_OR_RETURN(factors.tokens, read_factor(in, uint64_t{tokens} * stored_rank));
  KVPACK_ASSIGN_OR_RETURN(factors.channels, read_factor(in, uint64_t{channels} * stored_rank));
  return factors;
}

void add_low_rank(const LowRankFactors& factors, float sign, std::span<float> rows, uint32_t channels) {
  std::vector<float> basis(factors.channels.size());
  for (size_t i = 0; i < basis.size(); ++i) basis[i] = f16_to_f32(factors.channels[i]);
  for (size_t token = 0; (token + 1) * channels <= rows.size() && factors.rank > 0; ++token) {
    float* row = rows.data() + token * channels;
    for (uint32_t r = 0; r < factors.rank; ++r) {
      const float weight = sign * f16_to_f32(factors.tokens[token * factors.rank + r]);
      const float* from = &basis[size_t{r} * channels];
      for (uint32_t c = 0; c < channels; ++c) row[c] += weight * from[c];
    }
  }
}

}  // namespace kvpack
