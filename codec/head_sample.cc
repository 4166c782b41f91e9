// SPDX-License-Identifier: Apache-2.0
#include "codec/head_sample.h"

#include <algorithm>
#include <cmath>

#include "codec/kernels.h"
#include "codec/quantizer.h"
#include "codec/token_classes.h"

namespace kvpack {

HeadSample::HeadSample(const PlaneStatistics& stats, uint32_t head, std::span<const int8_t> token_classes)
    : stats_(stats),
      head_(head),
      slots_(stats.sample_tokens),
      padded_((stats.sample_tokens + kLanes - 1) / kLanes * kLanes) {
  const auto class_of = [&](uint32_t t) {
    return token_classes.empty() ? 0 : int{token_classes[head * stats.view_tokens + stats.sample_token[t]]};
  };
  for (int token_class = kMinTokenClass; token_class <= kMaxTokenClass; ++token_class) {
    Run run{token_class, static_cast<uint32_t>(sample_row_.size()), 0};
    for (uint32_t t = 0; t < slots_; ++t) {
      if (class_of(t) == token_class) sample_row_.push_back(t);
    }
    run.count = static_cast<uint32_t>(sample_row_.size()) - run.first;
    if (run.count > 0) runs_.push_back(run);
  }
}

void HeadSample::transform(const ForwardTransform& forward, std::span<const float> mean) {
  const uint32_t dim = stats_.head_dim;
  const uint32_t channels = stats_.kv_heads * dim;
  const float* sample = stats_.sample.data() + size_t{head_} * dim;
  components_.resize(size_t{forward.components()} * padded_);
  std::vector<float> rows(size_t{dim} * kLanes);
  std::vector<float> values(rows.size());
  std::vector<float> components((size_t{dim} + kLanes) * kLanes);
  const float* of_lane[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) of_lane[lane] = &rows[static_cast<size_t>(lane) * dim];
  for (uint32_t first = 0; first < slots_; first += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      float* row = &rows[size_t{lane} * dim];
      if (first + lane >= slots_) {
        std::fill_n(row, dim, 0.0f);
        continue;
      }
      const float* from = sample + size_t{sample_row_[first + lane]} * channels;
      for (uint32_t d = 0; d < dim; ++d) row[d] = from[d] - mean[d];
    }
    kernels().columns(of_lane, dim, values.data());
    forward.apply_to_group(values.data(), components.data());
    for (uint32_t k = 0; k < forward.components(); ++k) {
      std::copy_n(&components[size_t{k} * kLanes], kLanes, &components_[size_t{k} * padded_ + first]);
    }
  }
}

void HeadSample::subtract(uint32_t component, float offset) {
  float* of_component = &components_[size_t{component} * padded_];
  for (uint32_t slot = 0; slot < slots_; ++slot) of_component[slot] -= offset;
}

double HeadSample::squares(uint32_t k) const {
  static const std::vector<float> kZeros(kSampleTokens);
  float sum[kErrorChains] = {};
  float largest[kErrorChains] = {};
  for (uint32_t first = 0; first < slots_; first += kSampleTokens) {
    kernels().errors(&component(k)[first], kZeros.data(), std::min(kSampleTokens, slots_ - first), sum, largest);
  }
  double squares = 0;
  for (const float of_chain : sum) squares += double{of_chain};
  return squares;
}

uint32_t HeadSample::live_components(float step, std::span<const float> mean) const {
  for (uint32_t k = static_cast<uint32_t>(mean.size()); k > 0; --k) {
    if (std::fabs(mean[k - 1]) > kDropDeviation * step) return k;
    const float* of_component = component(k - 1).data();
    uint32_t alive = 0;
    for (const Run& run : runs_) {
      const float half_step = 0.5f * step_of_class(step, run.token_class);
      for (uint32_t slot = run.first; slot < run.first + run.count; ++slot) {
        alive += std::fabs(of_component[slot]) > half_step ? 1 : 0;
      }
    }
    if (alive > slots_ / 256) return k;
  }
  return 0;
}

void HeadSample::quantize(float step, uint32_t count) {
  std::vector<float> inverse_step(padded_, 0.0f);
  for (const Run& run : runs_) {
    std::fill_n(inverse_step.begin() + run.first, run.count, 1.0f / step_of_class(step, run.token_class));
  }
  float ones[kLanes];
  std::fill_n(ones, kLanes, 1.0f);
  std::vector<float> scaled(padded_);
  q_.resize(size_t{count} * padded_);
  for (uint32_t k = 0; k < count; ++k) {
    const float* values = &components_[size_t{k} * padded_];
    for (uint32_t slot = 0; slot < padded_; ++slot) scaled[slot] = values[slot] * inverse_step[slot];
    int32_t* q = &q_[size_t{k} * padded_];
    if (kernels().quantize(scaled.data(), padded_ / kLanes, ones, q, kLanes)) continue;
    for (uint32_t slot = 0; slot < slots_; ++slot) {
      const bool fits = std::fabs(scaled[slot]) < static_cast<float>(kMaxQuantized);
      q[slot] = fits ? kvpack::quantize(scaled[slot], 1.0f) : kMaxQuantized;
    }
  }
}

int HeadSample::estimated_scale(uint32_t k, int levels) const {
  double sum = 0;
  for (const Run& run : runs_) {
    double of_run = 0;
    for (uint32_t slot = run.first; slot < run.first + run.count; ++slot) {
      const double q = q_[size_t{k} * padded_ + slot];
      of_run += q * q;
    }
    sum += of_run * std::ldexp(1.0, -2 * run.token_class);
  }
  return kvpack::estimated_scale(sum, slots_, levels);
}

void HeadSample::count(uint32_t k, ComponentHistogram& histogram) const {
  for (const Run& run : runs_) {
    histogram.add({&q_[size_t{k} * padded_ + run.first], run.count}, run.token_class);
  }
}

}  // namespace kvpack
