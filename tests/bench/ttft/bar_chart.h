// SPDX-License-Identifier: Apache-2.0
// The benchmark's picture: per group of scenarios, two bars for every policy.
#pragma once

#include <string>
#include <vector>

namespace kvpack {

struct Bar {
  std::string policy;
  double missed_percent = 0;
  double above_percent = 0;  // distortion above the oracle's
  bool rated = true;         // false: it met no deadline, so there is no distortion to compare
};

struct BarGroup {
  std::string title;
  std::vector<Bar> bars;
};

std::string bar_chart_svg(const std::vector<BarGroup>& groups);

}  // namespace kvpack
