// SPDX-License-Identifier: Apache-2.0
// The search for a step: it ends just inside its target where an octave of step is worth a bit, and where it is worth
// much less.
#include <doctest/doctest.h>

#include <cmath>

#include "codec/rate_control.h"
#include "tests/must.h"

namespace kvpack::test {
namespace {

constexpr double kValues = 1e6;

// As entropy-coded Gaussians have it: a bit per octave while the step is small, ever less above their deviation.
double bytes_at(double step) { return kValues / 8 * std::log2(1 + 4 / step) + 2000; }

TEST_CASE("a target in bytes is met within 1 %, at high and at low rates") {
  for (const double bits : {6.0, 3.0, 1.0, 0.5, 0.2, 0.05}) {
    SearchTarget target;
    target.most_bytes = kValues / 8 * bits;
    uint32_t trials = 0;
    const auto rule = must(search_step(target, kValues, [&](const StepRule& tried, bool) -> Result<Trial> {
      ++trials;
      Trial trial;
      trial.bytes = bytes_at(tried.per_deviation);
      return trial;
    }));
    CAPTURE(bits);
    REQUIRE(rule.has_value());
    CHECK(bytes_at(rule->per_deviation) <= *target.most_bytes);
    CHECK(bytes_at(rule->per_deviation) >= 0.99 * *target.most_bytes);
    CHECK(trials <= 10);
  }
}

TEST_CASE("a target in error is met within a tenth") {
  for (const double error : {1e-4, 0.1, 7.0}) {
    SearchTarget target;
    target.largest_error = error;
    const auto rule = must(search_step(target, kValues, [&](const StepRule& tried, bool) -> Result<Trial> {
      Trial trial;
      trial.max_error = 0.7 * std::pow(tried.absolute, 0.8);
      return trial;
    }));
    REQUIRE(rule.has_value());
    const double found = 0.7 * std::pow(rule->absolute, 0.8);
    CHECK(found <= error);
    CHECK(found >= 0.9 * error);
  }
}

TEST_CASE("what no step reaches is no value") {
  SearchTarget target;
  target.most_bytes = 1000;  // of which 2,000 are there whatever the step
  const auto rule = must(search_step(target, kValues, [](const StepRule& tried, bool) -> Result<Trial> {
    Trial trial;
    trial.bytes = bytes_at(tried.per_deviation);
    return trial;
  }));
  CHECK_FALSE(rule.has_value());
}

}  // namespace
}  // namespace kvpack::test
