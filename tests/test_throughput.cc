// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "net/throughput.h"
#include "net/throughput_store.h"

using namespace kvpack;

namespace {

// Transfers of random sizes on a link of known latency and rate, whose rate wobbles by `noise`.
ThroughputEstimator after_transfers(int count, double latency_s, double bytes_per_s, double noise, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> wobble(0, noise);
  ThroughputEstimator estimator;
  for (int i = 0; i < count; ++i) {
    const uint64_t bytes = 50'000 + random() % 1'000'000;
    const bool from_idle = random() % 2 == 0;
    const double carried_s = static_cast<double>(bytes) / bytes_per_s * std::exp(wobble(random));
    estimator.add({bytes, (from_idle ? latency_s : 0) + carried_s, from_idle});
  }
  return estimator;
}

}  // namespace

TEST_CASE("throughput: without samples nothing is known") {
  const ThroughputEstimate estimate = ThroughputEstimator().estimate();
  CHECK_FALSE(estimate.known());
  CHECK(estimate.bytes_per_s() == 0);
}

TEST_CASE("throughput: exact samples give latency and rate back") {
  const ThroughputEstimate estimate = after_transfers(40, 0.08, 2e6, 0, 1).estimate();
  CHECK(estimate.latency_s == doctest::Approx(0.08).epsilon(0.02));
  CHECK(estimate.bytes_per_s() == doctest::Approx(2e6).epsilon(0.005));
}

TEST_CASE("throughput: under noise, within a few of its own standard errors") {
  int rate_outside = 0, latency_outside = 0;
  double rate_error = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const ThroughputEstimate estimate = after_transfers(60, 0.05, 5e6, 0.2, seed).estimate();
    rate_error += std::abs(estimate.seconds_per_byte * 5e6 - 1) / 100;
    rate_outside += std::abs(estimate.seconds_per_byte - 1 / 5e6) > 2.5 * estimate.seconds_per_byte_error ? 1 : 0;
    latency_outside += std::abs(estimate.latency_s - 0.05) > 2.5 * estimate.latency_error_s ? 1 : 0;
  }
  CHECK(rate_error < 0.1);
  CHECK(rate_outside <= 5);
  CHECK(latency_outside <= 5);
}

TEST_CASE("throughput: more noise means a larger error, and longer forecasts are less certain") {
  const ThroughputEstimate calm = after_transfers(60, 0.05, 5e6, 0.02, 3).estimate();
  const ThroughputEstimate wild = after_transfers(60, 0.05, 5e6, 0.5, 3).estimate();
  CHECK(wild.predict(10'000'000, false).error_s > 2 * calm.predict(10'000'000, false).error_s);
  CHECK(calm.predict(10'000'000, true).mean_s == doctest::Approx(2.05).epsilon(0.02));
  CHECK(calm.predict(20'000'000, false).error_s > calm.predict(10'000'000, false).error_s);
}

TEST_CASE("throughput: the estimate follows a link that changes") {
  ThroughputEstimator estimator = after_transfers(40, 0.05, 5e6, 0.05, 4);
  for (int i = 0; i < 25; ++i) estimator.add({500'000, 1.0, false});
  CHECK(estimator.estimate().bytes_per_s() == doctest::Approx(5e5).epsilon(0.15));
}

TEST_CASE("throughput: latency alone never makes the rate negative") {
  ThroughputEstimator estimator;
  for (int i = 0; i < 10; ++i) estimator.add({1000 + static_cast<uint64_t>(i) * 5000, 0.5 - 0.03 * i, true});
  const ThroughputEstimate estimate = estimator.estimate();
  CHECK(estimate.known());
  CHECK(estimate.latency_s >= 0);
  CHECK(estimate.seconds_per_byte > 0);
}

TEST_CASE("busy meter: overlapping transfers count the link's time once") {
  ThroughputEstimator estimator;
  BusyMeter meter(estimator, 1000);
  meter.begin(0);
  meter.begin(0);  // two at once, 500 bytes/s together
  for (int i = 1; i <= 20; ++i) meter.deliver(i * 0.5, 250);
  meter.end(10);
  meter.end(10);
  CHECK(estimator.estimate().bytes_per_s() == doctest::Approx(500).epsilon(0.05));
  CHECK(meter.silent_s(50) == 0);  // idle time is not busy time
  meter.begin(50);
  CHECK(meter.silent_s(53) == doctest::Approx(3));
}

TEST_CASE("throughput store: per origin, survives, and rubbish is unknown") {
  const auto folder = std::filesystem::temp_directory_path() / "kvpack-test-throughput";
  std::filesystem::remove_all(folder);
  const ThroughputEstimator estimator = after_transfers(30, 0.04, 3e6, 0.1, 5);
  CHECK_FALSE(load_throughput(folder.string(), "https://a.example").has_value());
  REQUIRE(save_throughput(folder.string(), "https://a.example", estimator.memory()).ok());
  const auto loaded = load_throughput(folder.string(), "https://a.example");
  REQUIRE(loaded.has_value());
  CHECK(ThroughputEstimator(*loaded).estimate().bytes_per_s() ==
        doctest::Approx(estimator.estimate().bytes_per_s()).epsilon(0.02));
  CHECK(ThroughputEstimator(*loaded).memory().samples <= 4.0001);  // an old session must not outweigh a new one
  CHECK_FALSE(load_throughput(folder.string(), "https://b.example").has_value());
  for (const auto& entry : std::filesystem::directory_iterator(folder / "throughput")) {
    std::filesystem::resize_file(entry.path(), 20);
  }
  CHECK_FALSE(load_throughput(folder.string(), "https://a.example").has_value());
  std::filesystem::remove_all(folder);
}
