// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <random>

#include "net/trace.h"
#include "net/trace_generators.h"

using namespace kvpack;

TEST_CASE("trace: bytes and times are inverse to each other, over rounds and outages") {
  const auto trace = BandwidthTrace::create("t", {{1, 100, 0.1}, {2, 0, 0.2}, {0.5, 1000, 0.1}});
  REQUIRE(trace.ok());
  CHECK(trace->duration_s() == 3.5);
  CHECK(trace->bytes_between(0, 3.5) == doctest::Approx(600));
  CHECK(trace->bytes_between(0.5, 3.25) == doctest::Approx(50 + 250));
  CHECK(trace->time_of(0, 100) == doctest::Approx(1));      // not after the outage
  CHECK(trace->time_of(0, 101) == doctest::Approx(3.001));  // after it
  CHECK(trace->time_of(0, 6000) == doctest::Approx(35));
  CHECK(trace->latency_s(1.5) == 0.2);
  CHECK(trace->latency_s(3.5 + 0.5) == 0.1);
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> any(0, 20);
  for (int i = 0; i < 200; ++i) {
    const double from_s = any(random), bytes = any(random) * 200;
    const double to_s = trace->time_of(from_s, bytes);
    CHECK(trace->bytes_between(from_s, to_s) == doctest::Approx(bytes).epsilon(1e-9));
  }
}

TEST_CASE("trace: files of both formats") {
  const auto json = parse_trace("a", R"([{"duration_ms": 1000, "bandwidth_kbps": 800, "latency_ms": 20},
                                         {"duration_ms": 500, "bandwidth_kbps": 1600}])");
  REQUIRE(json.ok());
  CHECK(json->mean_bytes_per_s() == doctest::Approx(200e3 / 1.5));
  CHECK(json->latency_s(0.5) == 0.02);
  const auto text = parse_trace("b", "# seconds, Mbit/s\n0 8\n2 16\n4.0 0\n");
  REQUIRE(text.ok());
  CHECK(text->duration_s() == 6);
  CHECK(text->bytes_between(0, 6) == doctest::Approx(2e6 + 4e6));
}

TEST_CASE("trace: bad files are named with what is wrong") {
  for (const char* bad : {"", "[]", "[{\"duration_ms\": 1}]", "[{\"duration_ms\": -1, \"bandwidth_kbps\": 5}]",
                          "[{\"duration_ms\": 1000, \"bandwidth_kbps\": 0}]", "{\"a\": 1}", "0 x\n", "1 2 3\n",
                          "5 1\n2 1\n", "[1, 2]", "[{\"duration_ms\": \"1\", \"bandwidth_kbps\": 5}]"}) {
    const auto trace = parse_trace("bad.json", bad);
    REQUIRE_MESSAGE(!trace.ok(), bad);
    CHECK(trace.error().kind == ErrorKind::kInvalidArgument);
    CHECK(trace.error().message.find("bad.json") == 0);
  }
}

TEST_CASE("trace generators do what they are named after") {
  CHECK(step_trace(100, 10, 2, 0).bytes_between(0, 4) == doctest::Approx(220));
  CHECK(ramp_trace(100, 0, 2, 0).bytes_between(0, 2) == doctest::Approx(100));
  CHECK(outage_trace(100, 1, 2, 0).bytes_between(0, 4) == doctest::Approx(200));
  CHECK(outage_trace(100, 1, 2, 0).bytes_between(1, 3) == 0);
  // The bucket gives its burst, and what refills meanwhile.
  const BandwidthTrace bucket = token_bucket_trace(100, 90, 10, 0);
  CHECK(bucket.bytes_between(0, 1) == doctest::Approx(100));
  CHECK(bucket.bytes_between(1, 2) == doctest::Approx(10));
  const BandwidthTrace lossy = lossy_trace(1000, 2, 1, 0.02, 7);
  CHECK(lossy.mean_bytes_per_s() < 900);
  CHECK(lossy.mean_bytes_per_s() > 200);
  CHECK(lossy.bytes_between(0, 50) == lossy_trace(1000, 2, 1, 0.02, 7).bytes_between(0, 50));
}

TEST_CASE("trace: scaling scales bytes only") {
  const BandwidthTrace trace = step_trace(100, 10, 2, 0.3).scaled(4);
  CHECK(trace.bytes_between(0, 4) == doctest::Approx(880));
  CHECK(trace.latency_s(1) == 0.3);
}
