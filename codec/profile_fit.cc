// SPDX-License-Identifier: Apache-2.0
#include "codec/profile_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "codec/attention_sensitivity.h"
#include "codec/profile_basis.h"
#include "codec/rope.h"

namespace kvpack {
namespace {

// Of ln(weight) on ln(distance from the end): measured slopes are -1.2 to -1.6; a guess had better stay below.
constexpr float kDistanceSlope = -1.0f;

std::string plane_text(const KvPlane& plane) { return fmt::format("layer {} {}", plane.layer, side_name(plane.side)); }

double mean_variance(const std::vector<float>& covariance, uint32_t dim) {
  double sum = 1e-12;  // a head that is constant
  for (uint32_t d = 0; d < dim; ++d) sum += static_cast<double>(covariance[size_t{d} * dim + d]);
  return sum / dim;
}

}  // namespace

ProfileFitter::ProfileFitter(ModelFacts facts, std::map<uint32_t, std::vector<float>> output_gram)
    : facts_(std::move(facts)), output_gram_(std::move(output_gram)) {}

Status ProfileFitter::add_plane(const KvFile& file, const KvPlane& plane, const ModelFacts& facts) {
  const std::vector<int32_t>& positions = file.tensor.token_sets[plane.token_set].positions;
  // The first tokens are kept exactly; a sliding window's cells begin later and have none of them.
  const auto sinks = static_cast<uint32_t>(
      std::count_if(positions.begin(), positions.end(), [](int32_t p) { return p < int32_t{kSinkTokens}; }));
  if (plane.view.tokens < sinks + 2) {
    return invalid_argument(fmt::format("{}: {} tokens, too few to learn from", plane_text(plane), plane.view.tokens));
  }
  const auto [found, is_new] = planes_.try_emplace({plane.layer, plane.side}, plane.view.kv_heads, plane.view.head_dim);
  PlaneSums& sums = found->second;
  if (sums.kv_heads() != plane.view.kv_heads || sums.head_dim() != plane.view.head_dim) {
    return invalid_argument(fmt::format("{}: {} x {} channels, the files before have {} x {}", plane_text(plane),
                                        plane.view.kv_heads, plane.view.head_dim, sums.kv_heads(), sums.head_dim()));
  }
  const uint32_t count = plane.view.tokens - sinks;
  std::vector<float> rows(size_t{count} * plane.view.channels());
  load_values(plane.view, sinks, count, rows.data());
  if (!std::all_of(rows.begin(), rows.end(), [](float value) { return std::isfinite(value); })) {
    return invalid_argument(fmt::format("{}: a value is not finite", plane_text(plane)));
  }
  if (plane.side == Side::kKey && plane.rope >= 0) {
    RopeRotation(facts.ropes[static_cast<size_t>(plane.rope)], std::span(positions).subspan(sinks))
        .undo(rows, plane.view.kv_heads, plane.view.head_dim);
  }
  sums.add(rows);
  return {};
}

Status ProfileFitter::add(const KvFile& file) {
  if (file.tensor.planes.empty()) return invalid_argument("no KV values to learn from");
  const ModelFacts& facts = file.facts ? *file.facts : facts_;
  for (const KvPlane& plane : file.tensor.planes) {
    if (file.tensor.token_sets[plane.token_set].positions.empty()) continue;
    KVPACK_RETURN_IF_ERROR(add_plane(file, plane, facts));
  }
  ++files_;
  return {};
}

std::vector<float> ProfileFitter::guess_sensitivity(uint32_t layer, Side side, const PlaneSums& sums,
                                                    uint32_t head) const {
  const uint32_t dim = sums.head_dim();
  const size_t size = size_t{dim} * dim;
  std::vector<float> sensitivity(size);
  const auto gram = output_gram_.find(layer);
  if (side == Side::kKey || gram == output_gram_.end() || gram->second.size() != size * sums.kv_heads()) {
    const auto even = static_cast<float>(1 / mean_variance(sums.covariance(head), dim));
    for (uint32_t d = 0; d < dim; ++d) sensitivity[size_t{d} * dim + d] = even;
    return sensitivity;
  }
  // What the layer's values put into the stream, per value: every layer's counts as 1, its heads share it.
  double power = 1e-30;
  for (uint32_t other = 0; other < sums.kv_heads(); ++other) {
    const std::vector<float> covariance = sums.covariance(other);
    const float* passed_on = gram->second.data() + other * size;
    for (size_t i = 0; i < size; ++i) power += static_cast<double>(covariance[i]) * static_cast<double>(passed_on[i]);
  }
  const auto scale = static_cast<float>(sums.kv_heads() * dim / power);
  const float* passed_on = gram->second.data() + head * size;
  std::transform(passed_on, passed_on + size, sensitivity.begin(), [&](float value) { return value * scale; });
  return sensitivity;
}

Result<Profile> ProfileFitter::finish() const {
  constexpr double kRegulariser = 0.02;
  if (planes_.empty()) return invalid_argument("no KV file to learn from");
  Profile profile;
  profile.model_name = facts_.name;
  profile.model_architecture = facts_.architecture;
  profile.model_fingerprint = facts_.fingerprint;
  profile.method = fmt::format("fit, {} KV files{}", files_, output_gram_.empty() ? "" : ", output projections");
  for (const auto& [place, sums] : planes_) {
    const auto& [layer, side] = place;
    if (sums.texts() == 0) return invalid_argument(fmt::format("layer {} {}: no tokens", layer, side_name(side)));
    std::vector<std::vector<float>> sensitivity;
    for (uint32_t head = 0; head < sums.kv_heads(); ++head) {
      sensitivity.push_back(guess_sensitivity(layer, side, sums, head));
    }
    profile.planes.push_back(make_profile_plane(layer, side, sums, sensitivity, kRegulariser));
    if (side == Side::kValue) continue;
    TokenWeightModel model;
    model.layer = layer;
    model.kv_heads = sums.kv_heads();
    model.head_dim = sums.head_dim();
    model.weights.resize(size_t{model.kv_heads} * (model.head_dim + 5));
    for (uint32_t head = 0; head < model.kv_heads; ++head) {
      model.weights[size_t{head} * (model.head_dim + 5) + model.head_dim + 1] = kDistanceSlope;
    }
    profile.token_weights.push_back(std::move(model));
  }
  return profile;
}

}  // namespace kvpack
