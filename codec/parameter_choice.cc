// SPDX-License-Identifier: Apache-2.0
#include "codec/parameter_choice.h"

#include <algorithm>
#include <cmath>

#include "codec/class_choice.h"
#include "codec/entropy_tables.h"
#include "codec/kernels.h"
#include "codec/quantizer.h"
#include "codec/token_classes.h"

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

// The sample's components of one head, [component][sample token].
std::vector<float> transform_sample(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head,
                                    const ForwardTransform& forward) {
  const uint32_t channels = stats.kv_heads * stats.head_dim;
  const uint32_t first = head * stats.head_dim;
  std::vector<float> out(size_t{forward.components()} * stats.sample_tokens);
  std::vector<float> rows(size_t{stats.head_dim} * kLanes);
  std::vector<float> values(rows.size());
  std::vector<float> components((size_t{stats.head_dim} + kLanes) * kLanes);
  const float* of_lane[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) of_lane[lane] = &rows[static_cast<size_t>(lane) * stats.head_dim];
  for (uint32_t t = 0; t < stats.sample_tokens; t += kLanes) {
    const uint32_t lanes = std::min<uint32_t>(kLanes, stats.sample_tokens - t);
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      for (uint32_t d = 0; d < stats.head_dim; ++d) {
        rows[size_t{lane} * stats.head_dim + d] =
            stats.sample[size_t{t + lane} * channels + first + d] - parameters.mean_values[first + d];
      }
    }
    kernels().columns(of_lane, stats.head_dim, values.data());
    forward.apply_to_group(values.data(), components.data());
    for (uint32_t k = 0; k < forward.components(); ++k) {
      std::copy_n(&components[size_t{k} * kLanes], lanes, &out[size_t{k} * stats.sample_tokens + t]);
    }
  }
  return out;
}

// Rows of the KLT that are worth coding at this step.
HeadMatrix live_klt(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head) {
  const uint32_t dim = stats.head_dim;
  const std::vector<float> klt = klt_of(stats, head);
  const HeadMatrix full = quantize_matrix(klt, dim, dim);
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
    rows.insert(rows.end(), klt.begin() + size_t{k} * dim, klt.begin() + size_t{k + 1} * dim);
    ++live;
  }
  return quantize_matrix(rows, live, dim);
}

// Histograms of one head's sample at the finest step. `components` [component][sample token], at least `count` of them.
std::vector<ComponentHistogram> sample_histograms(const PlaneStatistics& stats, const PlaneParameters& parameters,
                                                  uint32_t head, std::span<const float> components, uint32_t count,
                                                  std::span<const int8_t> token_classes) {
  const float step = parameters.step[head] * kThirds[parameters.levels - 1];
  std::vector<ComponentHistogram> histograms(count);
  for (int token_class = kMinTokenClass; token_class <= kMaxTokenClass; ++token_class) {
    std::vector<uint32_t> of_class;
    for (uint32_t t = 0; t < stats.sample_tokens; ++t) {
      const int actual = token_classes.empty() ? 0 : token_classes[head * stats.view_tokens + stats.sample_token[t]];
      if (actual == token_class) of_class.push_back(t);
    }
    if (of_class.empty()) continue;
    const float inverse_step = 1.0f / step_of_class(step, token_class);
    std::vector<int32_t> q(of_class.size());
    for (uint32_t k = 0; k < count; ++k) {
      for (size_t i = 0; i < of_class.size(); ++i) {
        const float scaled = components[size_t{k} * stats.sample_tokens + of_class[i]] * inverse_step;
        q[i] = std::fabs(scaled) < static_cast<float>(kMaxQuantized) ? quantize(scaled, 1.0f) : kMaxQuantized;
      }
      histograms[k].add(q, token_class);
    }
  }
  return histograms;
}

// Reference classes of all components, and the bits that the whole plane is expected to need. `sample` [head]: its
// components.
double set_classes(const PlaneStatistics& stats, ParameterChoice& choice, std::span<const std::vector<float>> sample,
                   std::span<const int8_t> token_classes) {
  PlaneParameters& parameters = choice.parameters;
  std::vector<std::vector<ComponentHistogram>> histograms;
  int largest_scale = 0;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    histograms.push_back(
        sample_histograms(stats, parameters, head, sample[head], choice.forward[head].components(), token_classes));
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

PlaneShape plane_shape_of(const PlaneStatistics& stats) {
  PlaneShape shape;
  shape.kv_heads = stats.kv_heads;
  shape.head_dim = stats.head_dim;
  return shape;
}

// How many of the profile's components, from the first, are worth coding at this step: the others round to zero almost
// always, in the sample's values as in what the context's mean has beside the profile's (`mean`, [component]).
uint32_t live_components(const PlaneStatistics& stats, const PlaneParameters& parameters, uint32_t head,
                         std::span<const float> components, std::span<const float> mean,
                         std::span<const int8_t> token_classes) {
  const float step = parameters.step[head] * kThirds[parameters.levels - 1];
  for (uint32_t k = static_cast<uint32_t>(mean.size()); k > 0; --k) {
    const float* of_component = &components[size_t{k - 1} * stats.sample_tokens];
    if (std::fabs(mean[k - 1]) > kDropDeviation * step) return k;
    uint32_t alive = 0;
    for (uint32_t t = 0; t < stats.sample_tokens; ++t) {
      const int token_class =
          token_classes.empty() ? 0 : token_classes[head * stats.view_tokens + stats.sample_token[t]];
      alive += std::fabs(of_component[t] - mean[k - 1]) > 0.5f * step_of_class(step, token_class);
    }
    if (alive > stats.sample_tokens / 256) return k;
  }
  return 0;
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
  std::vector<std::vector<float>> sample;
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    sample.push_back(transform_sample(stats, choice.parameters, head, choice.forward[head]));
  }
  choice.estimated_bits = set_classes(stats, choice, sample, token_classes) + matrix_bits;
  return choice;
}

// Whether the context is as the profile's texts were: its components take about as many bits as theirs would.
bool resembles(const PlaneStatistics& stats, const ProfilePlane& profile, std::span<const std::vector<float>> sample,
               double step) {
  constexpr double kMostMore = 1.15;
  double here = 0;
  double there = 0;
  const auto bits = [&](double variance) { return std::log2(1 + variance / (step * step)); };
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    for (uint32_t k = 0; k < stats.head_dim; ++k) {
      double squares = 0;
      for (uint32_t t = 0; t < stats.sample_tokens; ++t) {
        const double value = double{sample[head][size_t{k} * stats.sample_tokens + t]};
        squares += value * value;
      }
      const double deviation = double{profile.deviation[size_t{head} * stats.head_dim + k]};
      here += bits(squares / std::max(1u, stats.sample_tokens));
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
  std::vector<std::vector<float>> sample;  // [head][component][sample token]
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    const HeadMatrix& basis = profile.basis[head];
    const ForwardTransform forward(TransformKind::kProfile, dim, &basis);
    std::vector<float> offset(dim);
    std::vector<float> components(basis.components);
    for (uint32_t d = 0; d < dim; ++d) {
      const size_t c = size_t{head} * dim + d;
      offset[d] = static_cast<float>(stats.mean[c] - double{profile.mean[c]});
    }
    forward.apply(offset.data(), components.data());
    sample.push_back(transform_sample(stats, parameters, head, forward));
    const uint32_t live = live_components(stats, parameters, head, sample[head], components, token_classes);
    parameters.matrices.push_back(first_components(basis, live, dim));
    choice.forward.push_back(forward.first_components(live));
    for (uint32_t k = 0; k < live; ++k) {
      const double quotient = std::clamp(double{components[k]} / double{unit}, -1e9, 1e9);
      parameters.mean.push_back(static_cast<int32_t>(std::lrint(quotient)));
      // The mean that the decoder will add, taken out.
      const float offset_of_k = static_cast<float>(parameters.mean.back()) * unit;
      float* of_component = &sample[head][size_t{k} * stats.sample_tokens];
      for (uint32_t t = 0; t < stats.sample_tokens; ++t) of_component[t] -= offset_of_k;
    }
  }
  if (!resolve_mean(parameters, plane_shape_of(stats), &profile).ok()) return lossless_choice();
  resembling = resembles(stats, profile, sample, rule.profile_step);
  choice.estimated_bits = set_classes(stats, choice, sample, token_classes);
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
  std::vector<std::vector<float>> sample;  // [head][component][sample token]
  for (uint32_t head = 0; head < stats.kv_heads; ++head) {
    const HeadMatrix& basis = bases[head];
    const ForwardTransform forward(TransformKind::kMatrix, dim, &basis);
    sample.push_back(transform_sample(stats, parameters, head, forward));
    const uint32_t live = live_components(stats, parameters, head, sample[head], no_offset, token_classes);
    parameters.matrices.push_back(first_components(basis, live, dim));
    // The decoder knows only the rows that are stored.
    const float unit = weight_unit(parameters.matrices.back());
    const bool same = live == 0 || unit == weight_unit(basis);
    choice.forward.push_back(
        (same ? forward : ForwardTransform(TransformKind::kMatrix, dim, &basis, unit)).first_components(live));
    matrix_bits += 8.0 * (dim + sizeof(float)) * live;
  }
  choice.estimated_bits = set_classes(stats, choice, sample, token_classes) + matrix_bits;
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
