// SPDX-License-Identifier: Apache-2.0
// GEAR (Kang et al., arXiv 2403.05527): 2 % of the values (per channel of K, per token of V,
// half at either end) exact; KIVI on the rest; what KIVI leaves, approximated per head with rank 4.
//
// Bytes: KIVI's, 32 bits an outlier (f16, 16-bit index), (tokens + head_dim) x 4 f16 a head.
#include <Eigen/Dense>

#include "codec/presets/group_quantizer.h"
#include "codec/presets/kivi.h"

namespace kvpack {
namespace {

constexpr double kOutlierShare = 0.02;
constexpr int kRank = 4;

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Block = Eigen::Map<Matrix, 0, Eigen::OuterStride<>>;

struct Outlier {
  size_t index = 0;
  float value = 0;
};

// Takes the outliers of one vector out: the middle of what is left stands in for them.
void take_outliers(float* values, size_t count, size_t stride, size_t base, std::vector<Outlier>& taken) {
  const std::vector<uint32_t> found = outliers_of(values, count, stride, kOutlierShare);
  std::vector<bool> out(count);
  for (const uint32_t i : found) out[i] = true;
  float low = INFINITY;
  float high = -INFINITY;
  for (size_t i = 0; i < count; ++i) {
    if (out[i]) continue;
    low = std::min(low, values[i * stride]);
    high = std::max(high, values[i * stride]);
  }
  for (const uint32_t i : found) {
    taken.push_back({base + i * stride, round_to_f16(values[i * stride])});
    if (low <= high) values[i * stride] = (low + high) / 2;
  }
}

std::vector<Outlier> take_outliers(PresetPlane& plane, uint32_t tokens) {
  std::vector<Outlier> taken;
  const uint32_t channels = plane.channels();
  float* rows = plane.rows.data();
  if (tokens == 0) return taken;
  if (plane.is_key()) {
    for (uint32_t c = 0; c < channels; ++c) take_outliers(rows + c, tokens, channels, c, taken);
  } else {
    for (size_t t = 0; t < tokens; ++t) take_outliers(rows + t * channels, channels, 1, t * channels, taken);
  }
  return taken;
}

void round_all(Matrix& matrix) {
  matrix = matrix.unaryExpr([](float x) { return round_to_f16(x); });
}

// The best approximation of rank 4, its factors rounded to f16: eigenvectors of the small Gram matrix.
Matrix low_rank_part(const Matrix& residual) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> gram((residual.transpose() * residual).cast<double>());
  const Eigen::Index rank = std::min<Eigen::Index>(kRank, residual.cols());
  Matrix right = gram.eigenvectors().rightCols(rank).cast<float>();
  round_all(right);
  Matrix left = residual * right;
  round_all(left);
  return left * right.transpose();
}

uint64_t code_plane(PresetPlane& plane, int bits) {
  const uint32_t tokens = kivi_tokens(plane);
  const std::vector<Outlier> outliers = take_outliers(plane, tokens);
  const std::vector<float> before = plane.rows;
  uint64_t total = quantize_kivi(plane, tokens, bits) + outliers.size() * 32;
  const Eigen::OuterStride<> stride(plane.channels());
  for (uint32_t head = 0; head < plane.heads() && tokens > 0; ++head) {
    const size_t first = size_t{head} * plane.head_dim();
    Block quantized(plane.rows.data() + first, tokens, plane.head_dim(), stride);
    const Block wanted(const_cast<float*>(before.data()) + first, tokens, plane.head_dim(), stride);
    quantized += low_rank_part(wanted - quantized);
    total += uint64_t{tokens + plane.head_dim()} * kRank * 16;
  }
  for (const Outlier& outlier : outliers) plane.rows[outlier.index] = outlier.value;
  return total;
}

}  // namespace

void add_gear(std::vector<Preset>& all) {
  for (const int bits : {2, 3, 4}) {
    all.push_back({"gear-" + std::to_string(bits), "gear",
                   "kivi-" + std::to_string(bits) + ", rank 4 per head, 2 % outliers",
                   [bits](const PresetInput& input) {
                     return run_per_plane(input, false, [bits](PresetPlane& plane) { return code_plane(plane, bits); });
                   }});
  }
}

}  // namespace kvpack
