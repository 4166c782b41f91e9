// SPDX-License-Identifier: Apache-2.0
// Matrices as decoding sums them, and their inverses.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "codec/rans.h"
#include "codec/transform.h"

using namespace kvpack;

namespace {

HeadMatrix random_matrix(uint32_t components, uint32_t head_dim, std::mt19937& random) {
  HeadMatrix matrix;
  matrix.components = components;
  for (uint32_t k = 0; k < components; ++k) {
    matrix.scale.push_back(std::ldexp(1.0f + static_cast<float>(random() % 100) / 100, -static_cast<int>(k % 6)));
  }
  for (uint32_t i = 0; i < components * head_dim; ++i) {
    matrix.rows.push_back(static_cast<int8_t>(static_cast<int>(random() % 256) - 128));
  }
  return matrix;
}

int weight_at(const PairedWeights& weights, uint32_t head_dim, uint32_t k, uint32_t d) {
  return weights.pairs[(size_t{k / 2} * head_dim + d) * 2 + k % 2];
}

}  // namespace

TEST_CASE("weights are the rows in units of 1/256 of the largest scale, to the nearest integer") {
  std::mt19937 random(1);
  for (const uint32_t components : {1u, 5u, 8u}) {
    constexpr uint32_t kDim = 8;
    const HeadMatrix matrix = random_matrix(components, kDim, random);
    const float unit = weight_unit(matrix);
    CHECK(unit * 256 == *std::max_element(matrix.scale.begin(), matrix.scale.end()));
    const PairedWeights weights = paired_weights(matrix, kDim, unit);
    REQUIRE(weights.pairs.size() == (components + 1) / 2 * kDim * 2);
    for (uint32_t d = 0; d < kDim; ++d) {
      for (uint32_t k = 0; k < components; ++k) {
        const float exact = static_cast<float>(matrix.rows[k * kDim + d]) * (matrix.scale[k] / unit);
        CHECK(weight_at(weights, kDim, k, d) == std::lrint(exact));
      }
      if (components % 2 == 1) CHECK(weight_at(weights, kDim, components, d) == 0);
    }
  }
  CHECK(weight_unit(HeadMatrix{}) == 1.0f);
}

TEST_CASE("the forward transform inverts the weights as they are rounded") {
  std::mt19937 random(2);
  for (const uint32_t components : {16u, 9u}) {  // square, and fewer rows than channels
    constexpr uint32_t kDim = 16;
    const HeadMatrix matrix = random_matrix(components, kDim, random);
    const PairedWeights weights = paired_weights(matrix, kDim, weight_unit(matrix));
    const ForwardTransform forward(TransformKind::kMatrix, kDim, &matrix);
    std::vector<float> group(size_t{kDim} * kLanes);
    std::vector<float> one(kDim);
    for (uint32_t d = 0; d < kDim; ++d) {
      for (uint32_t k = 0; k < components; ++k) {
        one[d] += static_cast<float>(weight_at(weights, kDim, k, d)) * weights.unit * static_cast<float>(k + 1);
      }
      std::fill_n(group.begin() + d * kLanes, kLanes, one[d]);
    }
    std::vector<float> components_of(kDim);
    std::vector<float> components_of_group((size_t{kDim} + kLanes) * kLanes);
    forward.apply(one.data(), components_of.data());
    forward.apply_to_group(group.data(), components_of_group.data());
    for (uint32_t k = 0; k < components; ++k) {
      CHECK(components_of[k] == doctest::Approx(k + 1).epsilon(1e-3));
      CHECK(components_of_group[k * kLanes + 7] == doctest::Approx(k + 1).epsilon(1e-3));
    }
  }
}
