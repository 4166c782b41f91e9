// SPDX-License-Identifier: Apache-2.0
// Profiles from KV files alone.
#include <doctest/doctest.h>

#include <cmath>

#include "codec/profile_file.h"
#include "codec/profile_fit.h"
#include "tests/random_kv.h"

namespace kvpack::test {
namespace {

Result<Profile> fit(const std::vector<KvFile>& files, const RandomShape& shape,
                    std::map<uint32_t, std::vector<float>> grams = {}) {
  ProfileFitter fitter(facts_of(shape), std::move(grams));
  for (const KvFile& file : files) KVPACK_RETURN_IF_ERROR(fitter.add(file));
  return fitter.finish();
}

TEST_CASE("a fitted profile has the caches' means and bases in which their components are as it says") {
  RandomShape shape;
  const std::vector<KvFile> files = {random_kv_file(shape)};
  const auto profile = fit(files, shape);
  REQUIRE_MESSAGE(profile.ok(), profile.error().message);
  REQUIRE(profile->planes.size() == 2 * shape.layers);
  CHECK(profile->model_fingerprint == facts_of(shape).fingerprint);
  CHECK(read_profile(write_profile(*profile), "fitted").ok());

  const ProfilePlane* plane = profile->plane(1, Side::kValue);
  REQUIRE(plane != nullptr);
  const KvPlane* source = nullptr;
  for (const KvPlane& candidate : files[0].tensor.planes) {
    if (candidate.layer == 1 && candidate.side == Side::kValue) source = &candidate;
  }
  const uint32_t channels = source->view.channels();
  std::vector<float> rows(size_t{source->view.tokens} * channels);
  load_values(source->view, 0, source->view.tokens, rows.data());
  const ForwardTransform forward(TransformKind::kMatrix, plane->head_dim, &plane->basis[1]);
  std::vector<double> squares(plane->head_dim);
  std::vector<float> centred(plane->head_dim), components(plane->head_dim);
  constexpr uint32_t kSinks = 4;
  for (uint32_t t = kSinks; t < source->view.tokens; ++t) {
    for (uint32_t d = 0; d < plane->head_dim; ++d) {
      const size_t channel = plane->head_dim + d;
      centred[d] = rows[t * channels + channel] - plane->mean[channel];
    }
    forward.apply(centred.data(), components.data());
    for (uint32_t k = 0; k < plane->head_dim; ++k) {
      squares[k] += static_cast<double>(components[k]) * static_cast<double>(components[k]);
    }
  }
  double mean_square = 0;
  for (uint32_t k = 0; k < plane->head_dim; ++k) {
    const double deviation = std::sqrt(squares[k] / (source->view.tokens - kSinks));
    CHECK(plane->deviation[plane->head_dim + k] == doctest::Approx(deviation).epsilon(0.05));
    mean_square += deviation * deviation / plane->head_dim;
  }
  CHECK(mean_square == doctest::Approx(1).epsilon(0.05));  // an error matters in proportion to the deviation
}

TEST_CASE("output projections decide between the heads of a layer") {
  RandomShape shape;
  shape.layers = 1;
  const size_t size = size_t{shape.value_dim} * shape.value_dim;
  std::vector<float> gram(shape.kv_heads * size);
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    for (uint32_t d = 0; d < shape.value_dim; ++d) {
      gram[head * size + size_t{d} * shape.value_dim + d] = head == 0 ? 1.0f : 9.0f;
    }
  }
  const auto profile = fit({random_kv_file(shape)}, shape, {{0, gram}});
  REQUIRE(profile.ok());
  const ProfilePlane* values = profile->plane(0, Side::kValue);
  CHECK(values->sensitivity[1] == doctest::Approx(9 * values->sensitivity[0]));
}

TEST_CASE("files that do not belong together, or hold nothing, are refused") {
  RandomShape shape;
  RandomShape other = shape;
  other.kv_heads = 1;
  CHECK(fit({random_kv_file(shape), random_kv_file(other)}, shape).error().kind == ErrorKind::kInvalidArgument);
  CHECK(fit({}, shape).error().kind == ErrorKind::kInvalidArgument);
  RandomShape tiny = shape;
  tiny.tokens = 5;
  CHECK(fit({random_kv_file(tiny)}, shape).error().kind == ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace kvpack::test
