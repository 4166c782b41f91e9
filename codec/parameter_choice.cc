// SPDX-License-Identifier: Apache-2.0
#include "codec/parameter_choice.h"

#include <algorithm>
#include <cmath>

#include "codec/class_choice.h"
#include "codec/entropy_tables.h"
#include "codec/head_sample.h"
#include "codec/quantizer.h"
#include "codec/token_classes.h"

namespace kvpack {
namespace {

// Unless some value of it would not round to zero.
constexpr float kDropLargest = 0.75f;
constexpr double kFinestStep = 1e-24;
constexpr double kCoarsestStep = 1e24;

double power_of_3(uint32_t exponent) {
  double power = 1;
  for (uint32_t i = 0; i < exponent; ++i) power *= 3;
  return power;
}

// A profile says what an error costs per head: the steps then follow from it, as if each value were a component.
void set_steps(const PlaneStatistics& stats, const StepRule& rule, const ProfilePlane* profile,
               PlaneParameters& parameters) {
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    double finest = profile != nullptr  ? rule.profile_step / std::sqrt(double{profile->sensitivity[head]})
                    : rule.absolute > 0 ? rule.absolute
                                        : rule.per_deviation * stats.deviation[head];
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
  parameters.mean_values.resize(stats.mean.size());
  for (uint32_t c = 0; c < stats.mean.size(); ++c) {
    const float unit = std::ldexp(parameters.step[c / dim], exponent);
    parameters.mean.push_back(static_cast<int32_t>(std::lrint(stats.mean[c] / double{unit})));
    parameters.mean_values[c] = static_cast<float>(parameters.mean[c]) * unit;
  }
  return true;
}

std::span<const float> mean_of(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head) {
  return std::span(parameters.mean_values).subspan(size_t{head} * stats.head_dim, stats.head_dim);
}

// Rows of the KLT that are worth coding at this step.
HeadMatrix live_klt(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head) {
  const uint32_t dim = stats.head_dim;
  const std::vector<float> klt = klt_of(stats, head);
  const HeadMatrix full = quantize_matrix(klt, dim, dim);
  const ForwardTransform forward(TransformKind::kMatrix, dim, &full);
  HeadSample sample(stats, head, {});
  sample.transform(forward, mean_of(stats, parameters, head));
  const double step = parameters.step[head] * kThirds[parameters.levels - 1];
  std::vector<float> rows;
  uint32_t live = 0;
  for (uint32_t k = 0; k < dim; ++k) {
    float largest = 0;
    for (const float value : sample.component(k)) largest = std::max(largest, std::fabs(value));
    const double deviation = std::sqrt(sample.squares(k) / std::max(1u, stats.sample_tokens));
    if (deviation < kDropDeviation * step && largest < kDropLargest * static_cast<float>(step)) continue;
    rows.insert(rows.end(), klt.begin() + size_t{k} * dim, klt.begin() + size_t{k + 1} * dim);
    ++live;
  }
  return quantize_matrix(rows, live, dim);
}

// Reference classes of all components, and the bits that the whole plane is expected to need. `sample` [head].
double set_classes(const PlaneStatistics& stats, ParameterChoice& choice, std::span<HeadSample> sample) {
  PlaneParameters& parameters = choice.parameters;
  const int levels = static_cast<int>(parameters.levels);
  int largest_scale = 0;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    const uint32_t components = choice.forward[head].components();
    sample[head].quantize(parameters.step[head] * kThirds[parameters.levels - 1], components);
    for (uint32_t k = 0; k < components; ++k) {
      largest_scale = std::max(largest_scale, sample[head].estimated_scale(k, levels));
    }
  }
  constexpr int kHeadroom = 6;  // half an octave
  parameters.scale_offset = std::clamp(largest_scale + kHeadroom - (kClassScales - 1), 0, kMaxScaleOffset);
  const double repeats = static_cast<double>(stats.tokens) / std::max(1u, stats.sample_tokens);
  double bits = 0;
  ComponentHistogram histogram;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    std::vector<uint8_t> classes;
    for (uint32_t k = 0; k < choice.forward[head].components(); ++k) {
      histogram.clear();
      sample[head].count(k, histogram);
      if (histogram.all_zero()) {
        classes.push_back(kDeadClass);
        continue;
      }
      const auto [class_byte, cost] = histogram.best_class(parameters.scale_offset, levels, kDeadClass);
      classes.push_back(class_byte);
      bits += cost * repeats;
    }
    parameters.classes.push_back(std::move(classes));
  }
  return bits;
}

PlaneShape plane_shape_of(const PlaneStatistics& stats) {
  PlaneShape shape;
  shape.kv_heads = stats.kv_heads;
  shape.head_dim = stats.head_dim;
  return shape;
}

ParameterChoice lossless_choice() {
  ParameterChoice choice;
  choice.parameters.lossless = true;
  return choice;
}

ParameterChoice with_transform(const PlaneStatistics& stats, PlaneParameters parameters, TransformKind transform,
                               std::span<const int8_t> token_classes) {
  parameters.transform = transform;
  double matrix_bits = 0;
  ParameterChoice choice;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    if (transform == TransformKind::kMatrix) {
      parameters.matrices.push_back(live_klt(stats, parameters, head));
      matrix_bits += 8.0 * (stats.head_dim + sizeof(float)) * parameters.matrices.back().components;
    }
    choice.forward.emplace_back(transform, stats.head_dim, parameters.matrix(head));
  }
  choice.parameters = std::move(parameters);
  std::vector<HeadSample> sample;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    sample.emplace_back(stats, head, token_classes);
    sample.back().transform(choice.forward[head], mean_of(stats, choice.parameters, head));
  }
  choice.estimated_bits = set_classes(stats, choice, sample) + matrix_bits;
  return choice;
}

// Whether the context is as the profile's texts were: its components take about as many bits as theirs would.
bool resembles(const PlaneStatistics& stats, const ProfilePlane& profile, std::span<const HeadSample> sample,
               double step) {
  constexpr double kMostMore = 1.15;
  double here = 0;
  double there = 0;
  const auto bits = [&](double variance) { return std::log2(1 + variance / (step * step)); };
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    for (uint32_t k = 0; k < stats.head_dim; ++k) {
      const double deviation = double{profile.deviation[size_t{head} * stats.head_dim + k]};
      here += bits(sample[head].squares(k) / std::max(1u, stats.sample_tokens));
      there += bits(deviation * deviation);
    }
  }
  return here <= kMostMore * there;
}

// The profile's basis, named, not stored. `resembling` says whether other transforms are worth a look.
ParameterChoice with_profile(const PlaneStatistics& stats, const StepRule& rule, const ProfilePlane& profile,
                             std::span<const int8_t> token_classes, bool& resembling) {
  const uint32_t dim = stats.head_dim;
  ParameterChoice choice;
  PlaneParameters& parameters = choice.parameters;
  parameters.levels = rule.levels;
  parameters.transform = TransformKind::kProfile;
  const double coarsest = rule.profile_step * power_of_3(rule.levels - 1);
  parameters.step.assign(stats.kv_heads, static_cast<float>(coarsest));
  if (!(coarsest >= kFinestStep && coarsest <= kCoarsestStep)) {
    return lossless_choice();
  }
  parameters.mean_values = profile.mean;
  // What the context's mean has beside the profile's, in thirds of the finest step: an error of the mean is the same
  // for every token, so it does not average out in attention as rounding does.
  parameters.mean_exponent = -2 - static_cast<int>(std::ceil(std::log2(3.0) * (rule.levels - 1)));
  const float unit = std::ldexp(static_cast<float>(coarsest), parameters.mean_exponent);
  const float finest = static_cast<float>(coarsest) * kThirds[rule.levels - 1];
  std::vector<HeadSample> sample;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    const HeadMatrix& basis = profile.basis[head];
    const ForwardTransform forward(TransformKind::kProfile, dim, &basis);
    std::vector<float> offset(dim);
    std::vector<float> mean(basis.components);
    for (uint32_t d = 0; d < dim; ++d) {
      const size_t c = size_t{head} * dim + d;
      offset[d] = static_cast<float>(stats.mean[c] - double{profile.mean[c]});
    }
    forward.apply(offset.data(), mean.data());
    sample.emplace_back(stats, head, token_classes);
    sample.back().transform(forward, mean_of(stats, parameters, head));
    std::vector<int32_t> in_units(basis.components);
    for (uint32_t k = 0; k < basis.components; ++k) {
      const double quotient = std::clamp(double{mean[k]} / double{unit}, -1e9, 1e9);
      in_units[k] = static_cast<int32_t>(std::lrint(quotient));
      // The mean that the decoder will add, taken out.
      sample.back().subtract(k, static_cast<float>(in_units[k]) * unit);
    }
    const uint32_t live = sample.back().live_components(finest, mean);
    parameters.mean.insert(parameters.mean.end(), in_units.begin(), in_units.begin() + live);
    parameters.matrices.push_back(first_components(basis, live, dim));
    choice.forward.push_back(forward.first_components(live));
  }
  if (!resolve_mean(parameters, plane_shape_of(stats), &profile).ok()) return lossless_choice();
  resembling = resembles(stats, profile, sample, rule.profile_step);
  choice.estimated_bits = set_classes(stats, choice, sample);
  return choice;
}

// The mean of the context by channel, finely enough that no component's part of its error exceeds a quarter of the
// finest step: an error of the mean is the same for every token and does not average out in attention as rounding does.
bool set_mean_for_basis(const PlaneStatistics& stats, const std::vector<HeadMatrix>& bases, double finest,
                        PlaneParameters& parameters) {
  const uint32_t dim = stats.head_dim;
  double gain = 1e-30;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    gain = std::max(gain, double{ForwardTransform(TransformKind::kMatrix, dim, &bases[head]).largest_gain()});
  }
  const double coarsest = double{parameters.step[0]};
  double exponent = std::floor(std::log2(finest / (4 * gain * coarsest)));
  for (const double mean : stats.mean) {
    if (mean != 0) exponent = std::max(exponent, std::ceil(std::log2(std::fabs(mean) / coarsest / (1 << 30))));
  }
  if (!(exponent >= -127 && exponent <= 100)) return false;
  parameters.mean_exponent = static_cast<int>(exponent);
  for (uint32_t c = 0; c < stats.mean.size(); ++c) {
    const float unit = std::ldexp(parameters.step[c / dim], parameters.mean_exponent);
    parameters.mean.push_back(static_cast<int32_t>(std::lrint(stats.mean[c] / double{unit})));
  }
  return resolve_mean(parameters, plane_shape_of(stats), nullptr).ok();
}

// A basis as coarse as it may be: the encoder inverts what is stored, so that rounding a row costs no accuracy; it only
// lets a little of that component into the others, in proportion to its deviation. Small numbers compress.
HeadMatrix coarse_basis(const HeadMatrix& basis, std::span<const float> deviation, double step, uint32_t dim) {
  constexpr double kPerDeviation = 20;  // -+20 for a component as wide as the step
  constexpr double kLeast = 6;
  std::vector<int8_t> largest;
  for (const float of_component : deviation) {
    largest.push_back(static_cast<int8_t>(std::clamp(kPerDeviation * double{of_component} / step, kLeast, 127.0)));
  }
  return quantize_matrix(matrix_rows(basis, dim), basis.components, dim, largest);
}

// The profile's basis, its rows stored with the plane: for a profile that nobody else has.
ParameterChoice with_stored_basis(const PlaneStatistics& stats, const StepRule& rule, const ProfilePlane& profile,
                                  std::span<const int8_t> token_classes) {
  const uint32_t dim = stats.head_dim;
  ParameterChoice choice;
  PlaneParameters& parameters = choice.parameters;
  parameters.levels = rule.levels;
  parameters.transform = TransformKind::kMatrix;
  const double coarsest = rule.profile_step * power_of_3(rule.levels - 1);
  parameters.step.assign(stats.kv_heads, static_cast<float>(coarsest));
  if (!(coarsest >= kFinestStep && coarsest <= kCoarsestStep)) return lossless_choice();
  std::vector<HeadMatrix> bases;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    const auto deviation = std::span(profile.deviation).subspan(size_t{head} * dim, dim);
    bases.push_back(coarse_basis(profile.basis[head], deviation, rule.profile_step, dim));
  }
  if (!set_mean_for_basis(stats, bases, rule.profile_step, parameters)) return lossless_choice();
  double matrix_bits = 0;
  const std::vector<float> no_offset(dim, 0.0f);
  std::vector<HeadSample> sample;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    const HeadMatrix& basis = bases[head];
    const ForwardTransform forward(TransformKind::kMatrix, dim, &basis);
    sample.emplace_back(stats, head, token_classes);
    sample.back().transform(forward, mean_of(stats, parameters, head));
    const uint32_t live = sample.back().live_components(parameters.step[head] * kThirds[rule.levels - 1], no_offset);
    parameters.matrices.push_back(first_components(basis, live, dim));
    // The decoder knows only the rows that are stored.
    const float unit = weight_unit(parameters.matrices.back());
    const bool same = live == 0 || unit == weight_unit(basis);
    choice.forward.push_back(
        (same ? forward : ForwardTransform(TransformKind::kMatrix, dim, &basis, unit)).first_components(live));
    matrix_bits += 8.0 * (dim + sizeof(float)) * live;
  }
  choice.estimated_bits = set_classes(stats, choice, sample) + matrix_bits;
  return choice;
}

// Transforms that need nothing but the context itself.
ParameterChoice best_of_context(const PlaneStatistics& stats, const StepRule& rule, const PlaneKnowledge& knowledge,
                                TransformChoice transform, uint32_t low_rank) {
  PlaneParameters parameters;
  parameters.levels = rule.levels;
  parameters.low_rank = low_rank;
  set_steps(stats, rule, knowledge.profile, parameters);
  const bool sane = std::all_of(parameters.step.begin(), parameters.step.end(),
                                [](float step) { return step >= kFinestStep && step <= kCoarsestStep; });
  if (!sane || !set_mean(stats, parameters)) {
    return lossless_choice();
  }
  std::vector<TransformKind> candidates;
  if (transform == TransformChoice::kAuto || transform == TransformChoice::kNone)
    candidates.push_back(TransformKind::kNone);
  if (transform == TransformChoice::kAuto || transform == TransformChoice::kHadamard) {
    candidates.push_back(TransformKind::kHadamard);
  }
  // A basis of the context's own, if one is stored, is no worse than its KLT.
  const bool with_klt =
      transform == TransformChoice::kKlt || (transform == TransformChoice::kAuto && !knowledge.store_basis);
  if (with_klt && can_have_klt(stats)) candidates.push_back(TransformKind::kMatrix);
  if (candidates.empty()) candidates.push_back(TransformKind::kHadamard);  // a KLT was asked for and cannot be had
  ParameterChoice best = with_transform(stats, parameters, candidates[0], knowledge.token_classes);
  for (size_t i = 1; i < candidates.size(); ++i) {
    ParameterChoice other = with_transform(stats, parameters, candidates[i], knowledge.token_classes);
    if (other.estimated_bits < best.estimated_bits) best = std::move(other);
  }
  return best;
}

ParameterChoice best_choice(const PlaneStatistics& stats, const StepRule& given, const PlaneKnowledge& knowledge,
                            TransformChoice transform, uint32_t low_rank) {
  // One context's end foresees less of what will be asked than ten texts do: on real models, steps as wide as a
  // profile's cost half as much KL again.
  constexpr double kOwnCaution = 0.8;
  StepRule rule = given;
  if (knowledge.store_basis) rule.profile_step *= kOwnCaution;
  const bool profiled = knowledge.profile != nullptr && rule.profile_step > 0;
  PlaneKnowledge known = knowledge;
  if (!profiled) known.profile = nullptr;
  if (!profiled || transform != TransformChoice::kAuto || low_rank > 0) {
    return best_of_context(stats, rule, known, transform, low_rank);
  }
  bool resembling = false;
  ParameterChoice best = knowledge.store_basis
                             ? with_stored_basis(stats, rule, *knowledge.profile, knowledge.token_classes)
                             : with_profile(stats, rule, *knowledge.profile, knowledge.token_classes, resembling);
  if (best.parameters.lossless || resembling) return best;
  ParameterChoice other = best_of_context(stats, rule, known, transform, low_rank);
  if (!other.parameters.lossless && other.estimated_bits < best.estimated_bits) best = std::move(other);
  return best;
}

}  // namespace

ParameterChoice choose_parameters(const PlaneStatistics& stats, const StepRule& rule, const PlaneKnowledge& knowledge,
                                  TransformChoice transform, uint32_t low_rank) {
  ParameterChoice best = best_choice(stats, rule, knowledge, transform, low_rank);
  return resolve_weights(best.parameters, plane_shape_of(stats), knowledge.profile).ok() ? best : lossless_choice();
}

}  // namespace kvpack
