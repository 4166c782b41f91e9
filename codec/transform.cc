// SPDX-License-Identifier: Apache-2.0
#include "codec/transform.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstring>

#include "codec/kernels.h"
#include "formats/ggml_blocks.h"

namespace kvpack {

std::string_view transform_kind_name(TransformKind kind) {
  switch (kind) {
    case TransformKind::kNone:
      return "none";
    case TransformKind::kHadamard:
      return "hadamard";
    case TransformKind::kMatrix:
      return "matrix";
    case TransformKind::kProfile:
      return "profile";
  }
  return "?";
}

HeadMatrix quantize_matrix(std::span<const float> rows, uint32_t components, uint32_t head_dim,
                           std::span<const int8_t> largest_of) {
  HeadMatrix matrix;
  matrix.components = components;
  matrix.scale.resize(components);
  matrix.rows.resize(size_t{components} * head_dim);
  for (uint32_t k = 0; k < components; ++k) {
    const float* row = rows.data() + size_t{k} * head_dim;
    float largest = 0;
    for (uint32_t d = 0; d < head_dim; ++d) largest = std::max(largest, std::fabs(row[d]));
    const float most = largest_of.empty() ? 127.0f : static_cast<float>(largest_of[k]);
    const float scale = largest > 0 ? largest / most : 1.0f;
    matrix.scale[k] = scale;
    for (uint32_t d = 0; d < head_dim; ++d) {
      matrix.rows[size_t{k} * head_dim + d] = static_cast<int8_t>(std::lrint(row[d] / scale));
    }
  }
  return matrix;
}

std::vector<float> matrix_rows(const HeadMatrix& matrix, uint32_t head_dim) {
  std::vector<float> rows(matrix.rows.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(matrix.rows[i]) * matrix.scale[i / head_dim];
  return rows;
}

namespace {

// |x| below 2^22, to the nearest integer, ties to even, without a call.
float nearest(float x) {
  constexpr float kInteger = 3 << 22;  // floats of this size have no fraction
  return (x + kInteger) - kInteger;
}

// Weights of row k, `stride` apart.
template <typename T>
void row_of_weights(const HeadMatrix& matrix, uint32_t head_dim, float unit, uint32_t k, size_t stride, T* weights) {
  const float scale = matrix.scale[k] / unit;
  const int8_t* row = &matrix.rows[size_t{k} * head_dim];
  for (uint32_t d = 0; d < head_dim; ++d)
    weights[d * stride] = static_cast<T>(nearest(static_cast<float>(row[d]) * scale));
}

}  // namespace

float weight_unit(const HeadMatrix& matrix) {
  constexpr float kPerScale = 256;  // 127 x 256 is the largest weight, -128 x 256 still an i16
  float largest = 0;
  for (const float scale : matrix.scale) largest = std::max(largest, scale);
  return largest > 0 ? largest / kPerScale : 1.0f;
}

PairedWeights paired_weights(const HeadMatrix& matrix, uint32_t head_dim, float unit) {
  PairedWeights weights;
  weights.unit = unit;
  weights.pairs.assign(size_t{(matrix.components + 1) / 2} * head_dim * 2, 0);
  for (uint32_t k = 0; k < matrix.components; ++k) {
    row_of_weights(matrix, head_dim, unit, k, 2, &weights.pairs[size_t{k / 2} * head_dim * 2 + k % 2]);
  }
  return weights;
}

uint32_t hadamard_block_of(uint32_t head_dim) { return head_dim & (~head_dim + 1); }

namespace {

// Of the weights times their unit, R: x = c R, so c = x R^-1, [head_dim][component]; of fewer rows than head_dim the
// pseudo-inverse, R^T (R R^T)^-1.
std::vector<double> inverse_of(const HeadMatrix& matrix, uint32_t head_dim, float unit) {
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  std::vector<double> rows(size_t{matrix.components} * head_dim);
  for (uint32_t k = 0; k < matrix.components; ++k) {
    row_of_weights(matrix, head_dim, unit, k, 1, &rows[size_t{k} * head_dim]);
  }
  for (double& weight : rows) weight *= double{unit};
  if (matrix.components == head_dim) {
    std::vector<double> inverse = rows;
    if (kernels().invert(inverse.data(), head_dim)) return inverse;
  }
  const Eigen::Map<const Rows> of_rows(rows.data(), matrix.components, head_dim);
  const Rows columns = (of_rows * of_rows.transpose()).ldlt().solve(of_rows).transpose();
  return {columns.data(), columns.data() + columns.size()};
}

}  // namespace

ForwardTransform::ForwardTransform(TransformKind kind, uint32_t head_dim, const HeadMatrix* matrix,
                                   std::optional<float> unit)
    : kind_(kind), head_dim_(head_dim), components_(head_dim), block_(hadamard_block_of(head_dim)) {
  if (!has_matrix(kind_)) return;
  components_ = matrix->components;
  if (components_ == 0) return;
  const std::vector<double> columns = inverse_of(*matrix, head_dim, unit.value_or(weight_unit(*matrix)));
  columns_.resize(size_t{head_dim} * components_);
  blocks_.assign(size_t{(components_ + kLanes - 1) / kLanes} * head_dim * kLanes, 0.0f);
  for (uint32_t d = 0; d < head_dim; ++d) {
    for (uint32_t k = 0; k < components_; ++k) {
      const float weight = static_cast<float>(columns[size_t{d} * components_ + k]);
      columns_[size_t{d} * components_ + k] = weight;
      blocks_[(size_t{k / kLanes} * head_dim + d) * kLanes + k % kLanes] = weight;
    }
  }
}

float ForwardTransform::largest_gain() const {
  float largest = 0;
  for (uint32_t d = 0; d < head_dim_; ++d) {
    float squares = 0;
    for (uint32_t k = 0; k < components_; ++k) {
      const float weight = columns_[size_t{d} * components_ + k];
      squares += weight * weight;
    }
    largest = std::max(largest, std::sqrt(squares));
  }
  return largest;
}

ForwardTransform ForwardTransform::first_components(uint32_t count) const {
  ForwardTransform first = *this;
  if (count >= components_) return first;
  first.components_ = count;
  first.columns_.resize(size_t{head_dim_} * count);
  first.blocks_.resize(size_t{(count + kLanes - 1) / kLanes} * head_dim_ * kLanes);
  for (uint32_t d = 0; d < head_dim_; ++d) {
    std::copy_n(&columns_[size_t{d} * components_], count, first.columns_.begin() + size_t{d} * count);
  }
  return first;
}

void ForwardTransform::apply(const float* values, float* components) const {
  if (!has_matrix(kind_)) {
    std::memcpy(components, values, head_dim_ * sizeof(float));
    if (kind_ == TransformKind::kHadamard) rotate_hadamard(components, head_dim_, block_);
    return;
  }
  kernels().forward(values, columns_.data(), head_dim_, components_, components);
}

void ForwardTransform::apply_to_group(float* values, float* components) const {
  if (!has_matrix(kind_)) {
    if (kind_ == TransformKind::kHadamard) kernels().hadamard(values, head_dim_, block_);
    const float factor = kind_ == TransformKind::kHadamard ? 1.0f / std::sqrt(static_cast<float>(block_)) : 1.0f;
    for (size_t i = 0; i < size_t{head_dim_} * kLanes; ++i) components[i] = values[i] * factor;
    return;
  }
  for (uint32_t first = 0; first < components_; first += kLanes) {
    kernels().forward_group(&blocks_[size_t{first} * head_dim_], values, head_dim_,
                            std::min<uint32_t>(kLanes, components_ - first), components + size_t{first} * kLanes);
  }
}

}  // namespace kvpack
