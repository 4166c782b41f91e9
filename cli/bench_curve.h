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

struct CurveBits {
  double bits = 0;
  bool at_most = false;  // even the point with the fewest bits, these, loses less
};

// Bits per value of `family` at `kl`: between two points on a straight line in the logarithm of KL. None if no point
// is as good.
std::optional<CurveBits> bits_at_kl(const std::vector<BenchPoint>& points, const std::string& family, double kl);

// Families in order of appearance.
std::vector<std::string> families_of(const std::vector<BenchPoint>& points);

}  // namespace kvpack::cli
