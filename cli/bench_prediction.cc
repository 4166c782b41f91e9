// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_prediction.h"

#include <algorithm>
#include <cmath>

#include "cli/quantities.h"
#include "codec/parallel.h"
#include "codec/rope.h"
#include "codec/token_keep.h"
#include "codec/token_scores.h"
#include "codec/transform.h"
#include "net/engine/profile_calibration.h"

namespace kvpack::cli {
namespace {

// A predicted weight is uncertain, so that half of its logarithm is believed, as for token classes.
constexpr double kBelieved = 0.5;

// [token * heads + head], sinks 0, the mean of the others 1 in every head.
std::vector<float> weights_of_plane(const KvPlane& plane, const std::vector<float>& scores,
                                    const std::vector<uint32_t>& sinks) {
  const uint32_t heads = plane.view.kv_heads;
  std::vector<float> weights(size_t{plane.view.tokens} * heads, 1.0f);
  for (size_t i = 0; i < weights.size() && i < scores.size(); ++i) {
    if (scores[i] > 0) weights[i] = static_cast<float>(std::pow(double{scores[i]}, kBelieved));
  }
  for (const uint32_t sink : sinks) std::fill_n(weights.begin() + size_t{sink} * heads, heads, 0.0f);
  for (uint32_t head = 0; head < heads; ++head) {
    double sum = 0;
    for (size_t i = head; i < weights.size(); i += heads) sum += weights[i];
    const double scale = per(static_cast<double>(plane.view.tokens - sinks.size()), sum);
    for (size_t i = head; i < weights.size(); i += heads) weights[i] = static_cast<float>(weights[i] * scale);
  }
  return weights;
}

}  // namespace

ErrorInComponents::ErrorInComponents(const BenchFile& file, const Profile& profile) : file_(file), profile_(profile) {
  const KvTensor& tensor = file.file.tensor;
  TokenScores scores(tensor.planes.size());
  if (file.facts != nullptr) {
    auto predicted = predict_token_scores(tensor, *file.facts, profile);
    if (predicted.ok()) scores = std::move(*predicted);
  }
  const auto sinks = attention_sinks(tensor);
  for (size_t p = 0; p < tensor.planes.size(); ++p) {
    weights_.push_back(weights_of_plane(tensor.planes[p], scores[p], sinks[tensor.planes[p].token_set]));
  }
}

double ErrorInComponents::of_plane(size_t p, const KvView& restored) const {
  const KvPlane& plane = file_.file.tensor.planes[p];
  const KvView& view = plane.view;
  const ProfilePlane& profile = *profile_.plane(plane.layer, plane.side);
  std::vector<float> error(size_t{view.tokens} * view.channels());
  std::vector<float> stored(error.size());
  load_values(restored, 0, view.tokens, error.data());
  load_values(view, 0, view.tokens, stored.data());
  for (size_t i = 0; i < error.size(); ++i) {
    error[i] -= stored[i];
    if (!std::isfinite(error[i])) error[i] = 0;
  }
  if (plane.rope >= 0 && file_.facts != nullptr) {
    const Rope& rope = file_.facts->ropes[static_cast<size_t>(plane.rope)];
    RopeRotation(rope, file_.file.tensor.token_sets[plane.token_set].positions)
        .undo(error, view.kv_heads, view.head_dim);
  }
  double sum = 0;
  for (uint32_t head = 0; head < view.kv_heads; ++head) {
    const ForwardTransform forward(TransformKind::kProfile, view.head_dim, &profile.basis[head]);
    std::vector<float> components(forward.components());
    for (size_t t = 0; t < view.tokens; ++t) {
      forward.apply(&error[t * view.channels() + size_t{head} * view.head_dim], components.data());
      double squared = 0;
      for (const float component : components) squared += double{component} * double{component};
      sum += squared * double{weights_[p][t * view.kv_heads + head]};
    }
  }
  return sum;
}

Result<double> ErrorInComponents::of(const Bytes& restored) const {
  KvReadOptions options;
  options.facts = file_.facts;
  KVPACK_ASSIGN_OR_RETURN(const KvFile other, read_kv_file(restored, options));
  const std::vector<KvPlane>& planes = file_.file.tensor.planes;
  std::vector<double> sums(planes.size());
  std::vector<double> counts(planes.size());
  parallel_for(planes.size(), file_.threads, [&](uint64_t p) {
    const KvView& view = planes[p].view;
    const ProfilePlane* profile = profile_.plane(planes[p].layer, planes[p].side);
    if (profile == nullptr || profile->kv_heads != view.kv_heads || profile->head_dim != view.head_dim) return;
    sums[p] = of_plane(p, other.tensor.planes[p].view);
    counts[p] = static_cast<double>(view.tokens) * view.channels();
  });
  double sum = 0;
  double count = 0;
  for (size_t p = 0; p < planes.size(); ++p) {
    sum += sums[p];
    count += counts[p];
  }
  return per(sum, count);
}

void predict_losses(std::vector<BenchPoint>& points) {
  const std::string low = std::string(kOwnProfileFamily) + " " + std::string(quality_name(Quality::kLow));
  double unit = 0;
  for (const BenchPoint& point : points) {
    if (point.name == low && point.component_error && *point.component_error > 0) {
      unit = engine::kLowKl / *point.component_error;
    }
  }
  for (BenchPoint& point : points) {
    if (unit > 0 && point.component_error) point.predicted_kl = unit * *point.component_error;
  }
}

}  // namespace kvpack::cli
