// SPDX-License-Identifier: Apache-2.0
// Points of many files put together: means per method, and bits at a given KL along a family's curve.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_methods.h"

namespace kvpack::cli {

// Means over files, method by method, in the first file's order. Bytes are summed; bits per value is their mean.
std::vector<BenchPoint> mean_points(const std::vector<std::vector<BenchPoint>>& files);

// Bits per value of `family` at `kl`: between two points on straight lines in the logarithms of both. None outside the
// points' range (except that a point at or below `kl` with the fewest bits stands for all above it).
std::optional<double> bits_at_kl(const std::vector<BenchPoint>& points, const std::string& family, double kl);

// Families in order of appearance.
std::vector<std::string> families_of(const std::vector<BenchPoint>& points);

}  // namespace kvpack::cli
