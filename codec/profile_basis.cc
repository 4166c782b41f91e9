// SPDX-License-Identifier: Apache-2.0
#include "codec/profile_basis.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cassert>
#include <cmath>

namespace kvpack {
namespace {

using Matrix = Eigen::MatrixXd;
constexpr double kLeastEigenvalue = 1e-6;
constexpr double kLeastWeight = 1e-9;  // of a head: sensitivity times variance, in units of the steps to come
constexpr double kLeastVariance = 1e-12;

Matrix symmetric(std::span<const float> values, uint32_t dim) {
  const Matrix full =
      Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(values.data(), dim, dim)
          .cast<double>();
  return (full + full.transpose()) / 2;
}

// One sign per eigenvector, so that every machine gives the same: its largest entry is positive.
void fix_signs(Matrix& vectors) {
  for (Eigen::Index k = 0; k < vectors.cols(); ++k) {
    Eigen::Index largest = 0;
    vectors.col(k).cwiseAbs().maxCoeff(&largest);
    if (vectors(largest, k) < 0) vectors.col(k) = -vectors.col(k);
  }
}

}  // namespace

ProfileBasis make_profile_basis(std::span<const float> sensitivity, std::span<const float> covariance, uint32_t dim,
                                double regulariser, double least) {
  assert(least > 0 && sensitivity.size() == size_t{dim} * dim && covariance.size() == sensitivity.size());
  Matrix weight = symmetric(sensitivity, dim);
  double mean = weight.diagonal().mean();
  if (mean > least) {
    weight /= mean;
  } else {
    mean = least;
    weight.setIdentity();
  }
  weight.diagonal().array() += regulariser;
  const Eigen::SelfAdjointEigenSolver<Matrix> of_weight(weight);
  const Eigen::VectorXd roots = of_weight.eigenvalues().cwiseMax(kLeastEigenvalue).cwiseSqrt();
  const Matrix root = of_weight.eigenvectors() * roots.asDiagonal() * of_weight.eigenvectors().transpose();
  const Matrix inverse =
      of_weight.eigenvectors() * roots.cwiseInverse().asDiagonal() * of_weight.eigenvectors().transpose();

  const Eigen::SelfAdjointEigenSolver<Matrix> of_values(root * symmetric(covariance, dim) * root);
  Matrix vectors = of_values.eigenvectors().rowwise().reverse();  // ascending -> falling
  fix_signs(vectors);
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows =
      (vectors.transpose() * inverse / std::sqrt(mean)).cast<float>();

  ProfileBasis basis;
  basis.rows = quantize_matrix({rows.data(), static_cast<size_t>(rows.size())}, dim, dim);
  basis.sensitivity = static_cast<float>(mean);
  for (uint32_t k = 0; k < dim; ++k) {
    const double variance = std::max(0.0, of_values.eigenvalues()[dim - 1 - k]) * mean;
    basis.deviation.push_back(static_cast<float>(std::sqrt(variance)));
  }
  return basis;
}

ProfilePlane make_profile_plane(uint32_t layer, Side side, const PlaneSums& statistics,
                                const std::vector<std::vector<float>>& sensitivity, double regulariser) {
  const uint32_t dim = statistics.head_dim();
  ProfilePlane plane;
  plane.layer = layer;
  plane.side = side;
  plane.kv_heads = statistics.kv_heads();
  plane.head_dim = dim;
  plane.mean = statistics.mean();
  for (uint32_t head = 0; head < plane.kv_heads; ++head) {
    const std::vector<float> covariance = statistics.covariance(head);
    double variance = kLeastVariance;
    for (uint32_t d = 0; d < dim; ++d) variance += static_cast<double>(covariance[size_t{d} * dim + d]) / dim;
    ProfileBasis basis = make_profile_basis(sensitivity[head], covariance, dim, regulariser, kLeastWeight / variance);
    plane.basis.push_back(std::move(basis.rows));
    plane.deviation.insert(plane.deviation.end(), basis.deviation.begin(), basis.deviation.end());
    plane.sensitivity.push_back(basis.sensitivity);
  }
  return plane;
}

}  // namespace kvpack
