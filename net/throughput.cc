// SPDX-License-Identifier: Apache-2.0
#include "net/throughput.h"

#include <algorithm>
#include <cmath>

namespace kvpack {
namespace {

constexpr double kFading = 0.9;  // weight of a sample against the one after it: about ten count
// A weak belief about latency, worth a tenth of a sample: with transfers of one size only it keeps the fit determined.
constexpr double kPriorLatencyS = 0.05;
constexpr double kPriorWeight = 0.1;
// With one or two samples their scatter says nothing: assume that rates vary by half.
constexpr double kPriorVariation = 0.5;
constexpr double kPriorVariationSamples = 2;

void scale(ThroughputMemory& memory, double factor) {
  for (double* sum : {&memory.samples, &memory.idle, &memory.idle_bytes, &memory.bytes_squared, &memory.idle_seconds,
                      &memory.bytes_seconds, &memory.seconds_squared, &memory.bytes}) {
    *sum *= factor;
  }
}

}  // namespace

Forecast ThroughputEstimate::predict(uint64_t bytes, bool from_idle) const {
  const double x1 = from_idle ? 1 : 0;
  const auto x2 = static_cast<double>(bytes);
  const double variance = x1 * latency_error_s * latency_error_s + 2 * x1 * x2 * error_covariance +
                          x2 * x2 * seconds_per_byte_error * seconds_per_byte_error + x2 * noise_s2_per_byte;
  return {x1 * latency_s + x2 * seconds_per_byte, std::sqrt(std::max(0.0, variance))};
}

ThroughputEstimator::ThroughputEstimator(const ThroughputMemory& memory, double max_samples) : memory_(memory) {
  if (memory_.samples > max_samples) scale(memory_, max_samples / memory_.samples);
}

void ThroughputEstimator::add(const TransferSample& sample) {
  scale(memory_, kFading);
  const double x1 = sample.from_idle ? 1 : 0;
  const auto x2 = static_cast<double>(sample.bytes);
  memory_.samples += 1;
  memory_.idle += x1;
  memory_.idle_bytes += x1 * x2;
  memory_.bytes_squared += x2 * x2;
  memory_.idle_seconds += x1 * sample.busy_s;
  memory_.bytes_seconds += x2 * sample.busy_s;
  memory_.seconds_squared += sample.busy_s * sample.busy_s;
  memory_.bytes += x2;
}

// Least squares with two unknowns; errors from the residuals, which count per byte as independent rates along a
// transfer would.
ThroughputEstimate ThroughputEstimator::estimate() const {
  ThroughputEstimate out;
  const ThroughputMemory& m = memory_;
  if (m.bytes_squared <= 0 || m.bytes_seconds <= 0) return out;
  const double a = m.idle + kPriorWeight;
  const double b = m.idle_bytes;
  const double c = m.bytes_squared;
  const double u = m.idle_seconds + kPriorWeight * kPriorLatencyS;
  const double v = m.bytes_seconds;
  const double determinant = a * c - b * b;  // positive: the prior adds kPriorWeight * c
  out.latency_s = (u * c - v * b) / determinant;
  out.seconds_per_byte = (v * a - u * b) / determinant;
  // Noise can make either negative; then the other explains everything.
  if (out.latency_s < 0 || out.seconds_per_byte <= 0) {
    out.latency_s = out.latency_s < 0 ? 0 : std::min(u / a, m.idle > 0 ? m.idle_seconds / m.idle : 0);
    out.seconds_per_byte = std::max((v - out.latency_s * b) / c, v / c * 0.05);
  }
  const double l = out.latency_s, s = out.seconds_per_byte;
  const double residual = m.seconds_squared - 2 * l * m.idle_seconds - 2 * s * m.bytes_seconds + l * l * m.idle +
                          2 * l * s * m.idle_bytes + s * s * m.bytes_squared;
  const double mean_bytes = m.bytes / m.samples;
  const double prior_variance = std::pow(kPriorVariation * s * mean_bytes, 2);
  const double variance =
      (std::max(0.0, residual) + kPriorVariationSamples * prior_variance) / (m.samples + kPriorVariationSamples);
  out.latency_error_s = std::sqrt(variance * c / determinant);
  out.seconds_per_byte_error = std::sqrt(variance * a / determinant);
  out.error_covariance = -variance * b / determinant;
  out.noise_s2_per_byte = mean_bytes > 0 ? variance / mean_bytes : 0;
  out.samples = m.samples;
  return out;
}

void BusyMeter::begin(double now_s) {
  if (active_++ > 0) return;
  from_idle_ = true;
  bytes_ = 0;
  sample_begin_s_ = now_s;
  last_byte_s_ = now_s;
}

void BusyMeter::deliver(double now_s, uint64_t bytes) {
  bytes_ += bytes;
  last_byte_s_ = now_s;
  if (bytes_ >= sample_bytes_) flush(now_s);
}

void BusyMeter::end(double now_s) {
  if (active_ > 0 && --active_ == 0 && bytes_ > 0) flush(now_s);
}

void BusyMeter::flush(double now_s) {
  estimator_.add({bytes_, std::max(now_s - sample_begin_s_, 1e-6), from_idle_});
  from_idle_ = false;
  bytes_ = 0;
  sample_begin_s_ = now_s;
}

}  // namespace kvpack
