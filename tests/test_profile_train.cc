// SPDX-License-Identifier: Apache-2.0
// The sums behind a profile, against numbers that tests/profile_reference.py computed with numpy from the same formulas
// and the same made-up inputs (LayerInput below is its twin).
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "codec/attention_sensitivity.h"
#include "codec/profile_basis.h"
#include "codec/profile_train.h"
#include "tests/random_kv.h"

namespace kvpack::test {
namespace {

constexpr uint32_t kTokens = 40, kQueries = 8, kPrefix = 32;
constexpr uint32_t kQueryHeads = 4, kKvHeads = 2, kDim = 4, kWidth = 6;

// In [-1, 1): an LCG's high bits.
struct Numbers {
  uint64_t state = 1;
  std::vector<float> take(size_t count, float scale = 1) {
    std::vector<float> out(count);
    for (float& value : out) {
      state = (state * 1103515245 + 12345) % (uint64_t{1} << 31);
      value = scale * (static_cast<float>(state >> 16) / 16384.0f - 1.0f);
    }
    return out;
  }
};

struct LayerInput {
  AttentionLayer layer;
  std::vector<float> query, key, value;
  LayerWindow window;

  LayerInput() {
    Numbers numbers;
    query = numbers.take(size_t{kQueries} * kQueryHeads * kDim, 3);
    key = numbers.take(size_t{kTokens} * kKvHeads * kDim, 3);
    value = numbers.take(size_t{kTokens} * kKvHeads * kDim);
    const std::vector<float> output = numbers.take(size_t{kWidth} * kQueryHeads * kDim);  // [width][head][dim]
    layer.layer = 3;
    layer.query_heads = kQueryHeads;
    layer.kv_heads = kKvHeads;
    layer.key_dim = layer.value_dim = kDim;
    layer.rope = plain_rope(RopeStyle::kNorm, kDim, 100);
    layer.score_scale = 0.5f;
    layer.output_gram.resize(size_t{kQueryHeads} * kDim * kDim);
    for (uint32_t w = 0; w < kWidth; ++w) {
      for (uint32_t h = 0; h < kQueryHeads; ++h) {
        const float* row = &output[(size_t{w} * kQueryHeads + h) * kDim];
        for (uint32_t i = 0; i < kDim * kDim; ++i) {
          layer.output_gram[size_t{h} * kDim * kDim + i] += row[i / kDim] * row[i % kDim];
        }
      }
    }
    window = {kTokens, kQueries, query, key, value, 3.0};
  }
};

void check_close(std::span<const float> found, std::initializer_list<double> expected) {
  REQUIRE(found.size() == expected.size());
  size_t i = 0;
  for (double number : expected) CHECK(found[i++] == doctest::Approx(number).epsilon(1e-4));
}

TEST_CASE("sensitivities and token weights are those of the reference") {
  const LayerInput input;
  SensitivityOptions options;
  options.seed = 7;
  const LayerSensitivity found = attention_sensitivity(input.layer, input.window, options);
  REQUIRE(found.heads.size() == kKvHeads);
  check_close(std::span(found.output).first(kDim), {-0.06662732, 0.02255923, 0.38675468, -0.36811616});
  check_close(found.heads[1].value,
              {2.3722312, -1.1153996, -0.1864201, 0.2072106, -1.1153996, 4.2129336, 1.5621204, 0.3745825,  //
               -0.1864201, 1.5621204, 3.4488722, -0.2931143, 0.2072106, 0.3745825, -0.2931143, 3.2537099});
  check_close(found.heads[1].key,
              {1.2107956, -0.0690434, -0.2669017, 0.5314059, -0.0690434, 1.0085489, -0.0843832, -0.4999826,  //
               -0.2669017, -0.0843832, 1.3580671, 0.2081756, 0.5314059, -0.4999826, 0.2081756, 1.4153748});
  const double key_weights[] = {0.0024003, 0.0017295, 0.0006753, 0.0007267, 0.0038833};
  const double value_weights[] = {0.0070276, 0.0004354, 0.0251861, 0.0006151, 0.1763075};
  for (size_t i = 0; i < 5; ++i) {
    CHECK(found.heads[0].key_weight[3 + i] == doctest::Approx(key_weights[i]).epsilon(1e-3));
    CHECK(found.heads[1].value_weight[3 + i] == doctest::Approx(value_weights[i]).epsilon(1e-3));
  }
}

TEST_CASE("threads change nothing, another seed changes only the sampled keys") {
  const LayerInput input;
  SensitivityOptions options;
  options.threads = 1;
  const LayerSensitivity one = attention_sensitivity(input.layer, input.window, options);
  options.threads = 3;
  const LayerSensitivity three = attention_sensitivity(input.layer, input.window, options);
  options.seed = 1;
  const LayerSensitivity other = attention_sensitivity(input.layer, input.window, options);
  for (uint32_t head = 0; head < kKvHeads; ++head) {
    CHECK(one.heads[head].key == three.heads[head].key);
    CHECK(one.heads[head].value == three.heads[head].value);
    CHECK(one.heads[head].key != other.heads[head].key);
    CHECK(one.heads[head].value == other.heads[head].value);
  }
}

TEST_CASE("more draws come nearer to the whole sum of the keys") {
  // The trace does not depend on where a query is rotated back to, so any number of draws gives it whole.
  const LayerInput input;
  SensitivityOptions few, many;
  many.draws = 64;
  const LayerSensitivity a = attention_sensitivity(input.layer, input.window, few);
  const LayerSensitivity b = attention_sensitivity(input.layer, input.window, many);
  for (uint32_t head = 0; head < kKvHeads; ++head) {
    double trace_a = 0, trace_b = 0, weights = 0;
    for (uint32_t d = 0; d < kDim; ++d) {
      trace_a += static_cast<double>(a.heads[head].key[d * kDim + d]);
      trace_b += static_cast<double>(b.heads[head].key[d * kDim + d]);
    }
    for (uint32_t t = kSinkTokens; t < kPrefix; ++t) weights += a.heads[head].key_weight[t];
    CHECK(trace_a == doctest::Approx(trace_b).epsilon(1e-4));
    CHECK(trace_a == doctest::Approx(weights * kDim).epsilon(1e-4));
  }
}

TEST_CASE("a sliding window hides what lies before it") {
  LayerInput input;
  input.layer.sliding_window = 10;  // the first query, at 32, sees 23 to 32
  const LayerSensitivity found = attention_sensitivity(input.layer, input.window, {});
  for (const HeadSensitivity& head : found.heads) {
    for (uint32_t t = 0; t < 23; ++t) CHECK(head.value_weight[t] == 0);
    CHECK(head.value_weight[23] > 0);
    CHECK(head.key_weight[31] > 0);
  }
}

TEST_CASE("the trainer's token weights are the reference's ridge regression") {
  const LayerInput input;
  ProfileTrainOptions options;
  options.seed = 7;
  ProfileTrainer trainer({input.layer}, options);
  CHECK_FALSE(trainer.finish().ok());
  REQUIRE(trainer.add(0, input.window).ok());
  const auto profile = trainer.finish();
  REQUIRE(profile.ok());
  REQUIRE(profile->planes.size() == 2);
  REQUIRE(profile->token_weights.size() == 1);
  check_close(std::span(profile->token_weights[0].weights).first(kDim + 5),
              {0.1022659, -0.0221612, 0.163446, -0.0813204, 0.4804671, -0.1120914, 0.2873713, 0.4918679, -2.3641209});
  // mean diagonal of F, times the values in a cache of this length, per token and query
  const double values = 2.0 * kPrefix * kKvHeads * kDim;
  const double mean_f = (2.3722312 + 4.2129336 + 3.4488722 + 3.2537099) / 4;
  CHECK(profile->planes[1].sensitivity[1] == doctest::Approx(mean_f / (kPrefix * kQueries) * values).epsilon(1e-4));
  CHECK(profile->planes[0].sensitivity[1] ==
        doctest::Approx(2 * (1.2107956 + 1.0085489 + 1.3580671 + 1.4153748) / 4 / (kPrefix * kQueries) * values)
            .epsilon(1e-4));
}

TEST_CASE("windows that cannot be used are refused") {
  LayerInput input;
  ProfileTrainer trainer({input.layer}, {});
  LayerWindow window = input.window;
  window.queries = window.tokens - kSinkTokens;
  CHECK(trainer.add(0, window).error().kind == ErrorKind::kInvalidArgument);
  window = input.window;
  window.key = window.key.first(window.key.size() - 1);
  CHECK(trainer.add(0, window).error().kind == ErrorKind::kInvalidArgument);
  window = input.window;
  window.stream_power = 0;
  CHECK(trainer.add(0, window).error().kind == ErrorKind::kInvalidArgument);
  input.value[5] = std::numeric_limits<float>::infinity();
  CHECK(trainer.add(0, input.window).error().kind == ErrorKind::kInvalidArgument);
}

// F of rank 2 and a full covariance, [dim][dim].
struct Matrices {
  std::vector<float> sensitivity, covariance;
  explicit Matrices(uint32_t dim) : sensitivity(size_t{dim} * dim), covariance(size_t{dim} * dim) {
    Numbers numbers;
    for (auto* matrix : {&sensitivity, &covariance}) {
      const uint32_t rank = matrix == &sensitivity ? 2 : 2 * dim;
      const auto factor = numbers.take(size_t{rank} * dim);
      for (uint32_t r = 0; r < rank; ++r) {
        for (uint32_t i = 0; i < dim * dim; ++i) {
          (*matrix)[i] += factor[r * dim + i / dim] * factor[r * dim + i % dim];
        }
      }
    }
  }
};

TEST_CASE("a basis makes the sensitivity even and the components uncorrelated, by falling deviation") {
  constexpr uint32_t kWide = 16;
  const Matrices matrices(kWide);
  const double regulariser = 0.02;
  const ProfileBasis basis = make_profile_basis(matrices.sensitivity, matrices.covariance, kWide, regulariser, 1e-9);
  const ForwardTransform forward(TransformKind::kMatrix, kWide, &basis.rows);
  // Columns of A: the components of each unit vector.
  std::vector<float> columns(kWide * kWide);
  for (uint32_t d = 0; d < kWide; ++d) {
    std::vector<float> unit(kWide);
    unit[d] = 1;
    forward.apply(unit.data(), &columns[d * kWide]);
  }
  double mean = 0;
  for (uint32_t d = 0; d < kWide; ++d) mean += static_cast<double>(matrices.sensitivity[d * kWide + d]) / kWide;
  CHECK(basis.sensitivity == doctest::Approx(mean).epsilon(1e-5));
  double off_diagonal = 0;
  for (uint32_t k = 0; k < kWide; ++k) {
    for (uint32_t l = 0; l < kWide; ++l) {
      double product = 0;  // (A^T C A)[k][l]
      for (uint32_t i = 0; i < kWide; ++i) {
        for (uint32_t j = 0; j < kWide; ++j) {
          product += static_cast<double>(columns[i * kWide + k]) * static_cast<double>(columns[j * kWide + l]) *
                     static_cast<double>(matrices.covariance[i * kWide + j]);
        }
      }
      const double scale = static_cast<double>(basis.deviation[k]) * static_cast<double>(basis.deviation[l]);
      if (k == l) {
        CHECK(product == doctest::Approx(scale).epsilon(0.03));
      } else {
        off_diagonal = std::max(off_diagonal, std::fabs(product) / scale);
      }
    }
  }
  CHECK(off_diagonal < 0.1);  // int8 rows
  for (uint32_t k = 1; k < kWide; ++k) CHECK(basis.deviation[k] <= basis.deviation[k - 1]);
  // A A^T = F + regulariser x mean x I
  double error = 0, power = 0;
  for (uint32_t i = 0; i < kWide; ++i) {
    for (uint32_t j = 0; j < kWide; ++j) {
      double product = 0;
      for (uint32_t k = 0; k < kWide; ++k) {
        product += static_cast<double>(columns[i * kWide + k]) * static_cast<double>(columns[j * kWide + k]);
      }
      const double expected =
          static_cast<double>(matrices.sensitivity[i * kWide + j]) + (i == j ? regulariser * mean : 0);
      error += (product - expected) * (product - expected);
      power += expected * expected;
    }
  }
  CHECK(std::sqrt(error / power) < 0.1);
}

TEST_CASE("a head that nothing listens to still has a basis") {
  const Matrices matrices(8);
  const std::vector<float> nothing(64);
  const ProfileBasis basis = make_profile_basis(nothing, matrices.covariance, 8, 0.02, 1e-9);
  CHECK(basis.sensitivity == doctest::Approx(1e-9));
  CHECK(basis.rows.components == 8);
  for (float deviation : basis.deviation) CHECK(std::isfinite(deviation));
}

}  // namespace
}  // namespace kvpack::test
