// SPDX-License-Identifier: Apache-2.0
// KL against bits per value, all methods, as an SVG: both axes logarithmic, one line per family.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_methods.h"

namespace kvpack::cli {

// Points without predictions are left out; with none at all the picture has axes only.
std::string bench_plot(const std::vector<BenchPoint>& points, const std::string& title);

}  // namespace kvpack::cli
