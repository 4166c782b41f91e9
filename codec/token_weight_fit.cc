// SPDX-License-Identifier: Apache-2.0
#include "codec/token_weight_fit.h"

#include <Eigen/Dense>
#include <cassert>
#include <cmath>

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr double kLeastDeviation = 1e-6;

// Writes head_dim + 4 features.
template <typename Out>
void write_features(std::span<const float> key, uint32_t position, uint32_t tokens, Out&& out) {
  const size_t head_dim = key.size();
  double power = 0;
  for (size_t d = 0; d < head_dim; ++d) {
    out(d) = static_cast<double>(key[d]);
    power += static_cast<double>(key[d]) * static_cast<double>(key[d]);
  }
  out(head_dim) = std::sqrt(power);
  out(head_dim + 1) = std::log(static_cast<double>(tokens - position));
  out(head_dim + 2) = std::log(position + 1.0);
  out(head_dim + 3) = static_cast<double>(position) / tokens;
}

}  // namespace

TokenWeightFit::TokenWeightFit(uint32_t head_dim, bool places)
    : head_dim_(head_dim),
      places_(places),
      products_(size_t{head_dim + 5} * (head_dim + 5)),
      sums_(size_t{head_dim} + 5) {}

void TokenWeightFit::add(std::span<const float> keys, uint32_t first, uint32_t tokens,
                         std::span<const double> log_weights) {
  assert(keys.size() == log_weights.size() * head_dim_ && first + log_weights.size() <= tokens);
  const Eigen::Index columns = Eigen::Index{head_dim_} + 5;
  Matrix rows(static_cast<Eigen::Index>(log_weights.size()), columns);
  for (Eigen::Index i = 0; i < rows.rows(); ++i) {
    write_features(keys.subspan(static_cast<size_t>(i) * head_dim_, head_dim_), first + static_cast<uint32_t>(i),
                   tokens, [&](size_t feature) -> double& { return rows(i, static_cast<Eigen::Index>(feature)); });
    if (!places_) rows(i, columns - 3) = rows(i, columns - 2) = 0;
    rows(i, columns - 1) = log_weights[static_cast<size_t>(i)];
  }
  Eigen::Map<Matrix>(products_.data(), columns, columns) += rows.transpose() * rows;
  Eigen::Map<Eigen::VectorXd>(sums_.data(), columns) += rows.colwise().sum().transpose();
  count_ += static_cast<double>(rows.rows());
}

std::vector<float> TokenWeightFit::solve(double ridge) const {
  const Eigen::Index features = Eigen::Index{head_dim_} + kTokenPlaceFeatures;
  std::vector<float> weights(static_cast<size_t>(features) + 1);
  if (count_ < 2) return weights;
  const Eigen::Map<const Matrix> products(products_.data(), features + 1, features + 1);
  const Eigen::VectorXd mean = Eigen::Map<const Eigen::VectorXd>(sums_.data(), features + 1) / count_;
  const Matrix centred = products - count_ * mean * mean.transpose();
  Eigen::VectorXd deviation(features);
  for (Eigen::Index f = 0; f < features; ++f) {
    deviation[f] = std::sqrt(std::max(0.0, centred(f, f)) / (count_ - 1)) + kLeastDeviation;
  }
  const Eigen::VectorXd inverse = deviation.cwiseInverse();
  Matrix normal = inverse.asDiagonal() * centred.topLeftCorner(features, features) * inverse.asDiagonal();
  normal.diagonal().array() += ridge;
  const Eigen::VectorXd target = inverse.asDiagonal() * centred.col(features).head(features);
  const Eigen::VectorXd slope = inverse.asDiagonal() * normal.ldlt().solve(target);
  // The bias is shrunk like the other weights; its feature, 1, has no covariance with the centred ones.
  const double bias = mean[features] * count_ / (count_ + ridge) - slope.dot(mean.head(features));
  for (Eigen::Index f = 0; f < features; ++f) weights[static_cast<size_t>(f)] = static_cast<float>(slope[f]);
  weights.back() = static_cast<float>(bias);
  return weights;
}

double predict_log_weight(std::span<const float> weights, std::span<const float> key, uint32_t position,
                          uint32_t tokens) {
  std::vector<double> features(key.size() + kTokenPlaceFeatures);
  write_features(key, position, tokens, [&](size_t feature) -> double& { return features[feature]; });
  double sum = static_cast<double>(weights.back());
  for (size_t f = 0; f < features.size(); ++f) sum += features[f] * static_cast<double>(weights[f]);
  return sum;
}

}  // namespace kvpack
