// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_curve.h"

#include <algorithm>
#include <cmath>

namespace kvpack::cli {
namespace {

// Adds `value` / `files` to `sum`, which stays empty once any file lacks it.
void add_mean(std::optional<double>& sum, const std::optional<double>& value, double files) {
  if (!value || !sum) {
    sum.reset();
  } else {
    *sum += *value / files;
  }
}

void add_layering(std::vector<LevelCost>& sum, const std::vector<LevelCost>& other) {
  for (size_t level = 0; level < std::min(sum.size(), other.size()); ++level) {
    sum[level].nested_bytes += other[level].nested_bytes;
    sum[level].alone_bytes += other[level].alone_bytes;
    sum[level].tile_bytes += other[level].tile_bytes;
    sum[level].entropy_bytes += other[level].entropy_bytes;
  }
}

BenchPoint mean_point(const std::vector<std::vector<BenchPoint>>& files, size_t index) {
  BenchPoint mean = files[0][index];
  const auto count = static_cast<double>(files.size());
  mean.bytes = 0;
  mean.bits_per_value = mean.relative_error = mean.seconds = 0;
  if (mean.encode_bytes_per_s) mean.encode_bytes_per_s = 0;
  if (mean.decode_bytes_per_s) mean.decode_bytes_per_s = 0;
  if (mean.component_error) mean.component_error = 0;
  if (mean.predicted_kl) mean.predicted_kl = 0;
  if (mean.predictions) mean.predictions = BenchPredictions{};
  for (size_t f = 0; f < files.size(); ++f) {
    const BenchPoint& point = files[f][index];
    mean.bytes += point.bytes;
    mean.bits_per_value += point.bits_per_value / count;
    mean.relative_error += point.relative_error / count;
    mean.seconds += point.seconds / count;
    add_mean(mean.encode_bytes_per_s, point.encode_bytes_per_s, count);
    add_mean(mean.decode_bytes_per_s, point.decode_bytes_per_s, count);
    add_mean(mean.component_error, point.component_error, count);
    add_mean(mean.predicted_kl, point.predicted_kl, count);
    if (f > 0) add_layering(mean.layering, point.layering);
    if (!mean.predictions || !point.predictions) continue;
    mean.predictions->kl += point.predictions->kl / count;
    mean.predictions->delta_nll += point.predictions->delta_nll / count;
    mean.predictions->top1 += point.predictions->top1 / count;
  }
  return mean;
}

}  // namespace

std::vector<BenchPoint> mean_points(const std::vector<std::vector<BenchPoint>>& files) {
  std::vector<BenchPoint> means;
  for (size_t i = 0; !files.empty() && i < files[0].size(); ++i) means.push_back(mean_point(files, i));
  return means;
}

std::optional<CurveBits> bits_at_kl(const std::vector<BenchPoint>& points, const std::string& family, double kl) {
  std::vector<std::pair<double, double>> curve;  // ln KL, bits: by falling bits
  for (const BenchPoint& point : points) {
    if (point.family != family || !point.predictions || point.predictions->kl <= 0) continue;
    curve.push_back({std::log(point.predictions->kl), point.bits_per_value});
  }
  std::sort(curve.begin(), curve.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  const double wanted = std::log(kl);
  if (curve.empty() || curve.front().first > wanted) return std::nullopt;
  size_t last = 0;  // with the fewest bits of those that are good enough
  for (size_t i = 0; i < curve.size(); ++i) {
    if (curve[i].first <= wanted) last = i;
  }
  if (last + 1 == curve.size()) return CurveBits{curve[last].second, true};
  const auto& [kl_a, bits_a] = curve[last];
  const auto& [kl_b, bits_b] = curve[last + 1];
  return CurveBits{bits_a + (bits_b - bits_a) * (wanted - kl_a) / (kl_b - kl_a), false};
}

std::vector<std::string> families_of(const std::vector<BenchPoint>& points) {
  std::vector<std::string> families;
  for (const BenchPoint& point : points) {
    if (std::find(families.begin(), families.end(), point.family) == families.end()) families.push_back(point.family);
  }
  return families;
}

}  // namespace kvpack::cli
