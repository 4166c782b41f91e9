// SPDX-License-Identifier: Apache-2.0
#include "codec/parameter_choice.h"

#include <algorithm>
#include <cmath>

#include "codec/class_choice.h"
#include "codec/entropy_tables.h"
#include "codec/quantizer.h"

namespace kvpack {
namespace {

// A component this far below the step rounds to zero almost always: leaving it out costs less error than rounding does.
constexpr double kDropDeviation = 0.15;
// Unless some value of it would not round to zero.
constexpr float kDropLargest = 0.75f;
constexpr double kFinestStep = 1e-24;
constexpr double kCoarsestStep = 1e24;

double power_of_3(uint32_t exponent) {
  double power = 1;
  for (uint32_t i = 0; i < exponent; ++i) power *= 3;
  return power;
}

void set_steps(const PlaneStatistics& stats, const StepRule& rule, PlaneParameters& parameters) {
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    double finest = rule.absolute > 0 ? rule.absolute : rule.per_deviation * stats.deviation[head];
    if (!(finest > 0)) finest = 1;  // a constant head: everything is its mean
    parameters.step.push_back(static_cast<float>(finest * power_of_3(rule.levels - 1)));
  }
}

// The mean as integers in units of step x 2^exponent, about a quarter of the finest step: the encoder subtracts just
// what the decoder adds, so that rounding it costs no accuracy.
bool set_mean(const PlaneStatistics& stats, PlaneParameters& parameters) {
  const uint32_t dim = stats.head_dim;
  constexpr double kLargest = 1 << 30;
  int exponent = -2 - static_cast<int>(std::ceil(std::log2(3.0) * (parameters.levels - 1)));
  for (uint32_t c = 0; c < stats.mean.size(); ++c) {
    const double steps = std::fabs(stats.mean[c]) / parameters.step[c / dim];
    if (steps == 0) continue;
    exponent = std::max(exponent, static_cast<int>(std::ceil(std::log2(steps / kLargest))));
  }
  if (exponent > 100) return false;
  parameters.mean_exponent = exponent;
  for (uint32_t c = 0; c < stats.mean.size(); ++c) {
    parameters.mean.push_back(
        static_cast<int32_t>(std::lrint(stats.mean[c] / std::ldexp(parameters.step[c / dim], exponent))));
  }
  return true;
}

// The sample's components of one head, [component][sample token].
std::vector<float> transform_sample(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head,
                                    const ForwardTransform& forward) {
  const uint32_t channels = stats.kv_heads * stats.head_dim;
  const uint32_t first = head * stats.head_dim;
  std::vector<float> values(stats.head_dim);
  std::vector<float> components(forward.components());
  std::vector<float> out(size_t{forward.components()} * stats.sample_tokens);
  for (uint32_t t = 0; t < stats.sample_tokens; ++t) {
    for (uint32_t d = 0; d < stats.head_dim; ++d) {
      values[d] = stats.sample[size_t{t} * channels + first + d] - parameters.mean_of(first + d, head);
    }
    forward.apply(values.data(), components.data());
    for (uint32_t k = 0; k < forward.components(); ++k) out[size_t{k} * stats.sample_tokens + t] = components[k];
  }
  return out;
}

// Rows of the KLT that are worth coding at this step.
HeadMatrix live_klt(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head) {
  const uint32_t dim = stats.head_dim;
  const HeadMatrix full = quantize_matrix(stats.klt[head], dim, dim);
  const ForwardTransform forward(TransformKind::kMatrix, dim, &full);
  const std::vector<float> components = transform_sample(stats, parameters, head, forward);
  const double step = parameters.step[head] * kThirds[parameters.levels - 1];
  std::vector<float> rows;
  uint32_t live = 0;
  for (uint32_t k = 0; k < dim; ++k) {
    double squares = 0;
    float largest = 0;
    for (uint32_t t = 0; t < stats.sample_tokens; ++t) {
      const float value = components[size_t{k} * stats.sample_tokens + t];
      squares += double{value} * double{value};
      largest = std::max(largest, std::fabs(value));
    }
    const double deviation = std::sqrt(squares / std::max(1u, stats.sample_tokens));
    if (deviation < kDropDeviation * step && largest < kDropLargest * static_cast<float>(step)) continue;
    rows.insert(rows.end(), stats.klt[head].begin() + size_t{k} * dim, stats.klt[head].begin() + size_t{k + 1} * dim);
    ++live;
  }
  return quantize_matrix(rows, live, dim);
}

// Histograms of one head's sample at the finest step.
std::vector<ComponentHistogram> sample_histograms(const PlaneStatistics& stats, const PlaneParameters& parameters,
                                                  uint32_t head) {
  const ForwardTransform forward(parameters.transform, stats.head_dim, parameters.matrix(head));
  const std::vector<float> components = transform_sample(stats, parameters, head, forward);
  const float inverse_step = 1.0f / (parameters.step[head] * kThirds[parameters.levels - 1]);
  std::vector<ComponentHistogram> histograms(forward.components());
  std::vector<int32_t> q(stats.sample_tokens);
  for (uint32_t k = 0; k < forward.components(); ++k) {
    for (uint32_t t = 0; t < stats.sample_tokens; ++t) {
      const float scaled = components[size_t{k} * stats.sample_tokens + t] * inverse_step;
      q[t] = std::fabs(scaled) < static_cast<float>(kMaxQuantized) ? quantize(scaled, 1.0f) : kMaxQuantized;
    }
    histograms[k].add(q, 0);
  }
  return histograms;
}

// Reference classes of all components, and the bits that the whole plane is expected to need.
double set_classes(const PlaneStatistics& stats, PlaneParameters& parameters) {
  std::vector<std::vector<ComponentHistogram>> histograms;
  int largest_scale = 0;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    histograms.push_back(sample_histograms(stats, parameters, head));
    for (const ComponentHistogram& histogram : histograms.back()) {
      largest_scale = std::max(largest_scale, histogram.estimated_scale(static_cast<int>(parameters.levels)));
    }
  }
  constexpr int kHeadroom = 6;  // half an octave
  parameters.scale_offset = std::clamp(largest_scale + kHeadroom - (kClassScales - 1), 0, kMaxScaleOffset);
  const double repeats = static_cast<double>(stats.tokens) / std::max(1u, stats.sample_tokens);
  double bits = 0;
  for (auto& head_histograms : histograms) {
    std::vector<uint8_t> classes;
    for (const ComponentHistogram& histogram : head_histograms) {
      if (histogram.all_zero()) {
        classes.push_back(kDeadClass);
        continue;
      }
      const auto [class_byte, cost] =
          histogram.best_class(parameters.scale_offset, static_cast<int>(parameters.levels), kDeadClass);
      classes.push_back(class_byte);
      bits += cost * repeats;
    }
    parameters.classes.push_back(std::move(classes));
  }
  return bits;
}

ParameterChoice with_transform(const PlaneStatistics& stats, PlaneParameters parameters, TransformKind transform) {
  parameters.transform = transform;
  double matrix_bits = 0;
  for (uint32_t head = 0; head < stats.kv_heads && transform == TransformKind::kMatrix; ++head) {
    parameters.matrices.push_back(live_klt(stats, parameters, head));
    matrix_bits += 8.0 * (stats.head_dim + sizeof(float)) * parameters.matrices.back().components;
  }
  ParameterChoice choice{std::move(parameters), 0};
  choice.estimated_bits = set_classes(stats, choice.parameters) + matrix_bits;
  return choice;
}

}  // namespace

ParameterChoice choose_parameters(const PlaneStatistics& stats, const StepRule& rule, TransformChoice transform,
                                  uint32_t low_rank) {
  PlaneParameters parameters;
  parameters.levels = rule.levels;
  parameters.low_rank = low_rank;
  set_steps(stats, rule, parameters);
  const bool sane = std::all_of(parameters.step.begin(), parameters.step.end(),
                                [](float step) { return step >= kFinestStep && step <= kCoarsestStep; });
  if (!sane || !set_mean(stats, parameters)) {
    ParameterChoice exact;
    exact.parameters.lossless = true;
    return exact;
  }
  std::vector<TransformKind> candidates;
  if (transform == TransformChoice::kAuto || transform == TransformChoice::kNone)
    candidates.push_back(TransformKind::kNone);
  if (transform == TransformChoice::kAuto || transform == TransformChoice::kHadamard) {
    candidates.push_back(TransformKind::kHadamard);
  }
  if ((transform == TransformChoice::kAuto || transform == TransformChoice::kKlt) && !stats.klt.empty()) {
    candidates.push_back(TransformKind::kMatrix);
  }
  if (candidates.empty()) candidates.push_back(TransformKind::kHadamard);  // a KLT was asked for and cannot be had
  ParameterChoice best = with_transform(stats, parameters, candidates[0]);
  for (size_t i = 1; i < candidates.size(); ++i) {
    ParameterChoice other = with_transform(stats, parameters, candidates[i]);
    if (other.estimated_bits < best.estimated_bits) best = std::move(other);
  }
  return best;
}

}  // namespace kvpack
