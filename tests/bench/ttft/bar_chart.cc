// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/ttft/bar_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace kvpack {
namespace {

constexpr double kRow = 18, kTitle = 34, kLabel = 190, kBar = 230, kGap = 90, kTop = 46;

// 0 to 100 %, on a root scale so that 0.5 % can be seen beside 50 %.
double bar_length(double percent) { return kBar * std::sqrt(std::clamp(percent, 0.0, 100.0) / 100); }

std::string bar(double x, double y, double percent, bool rated, const char* color) {
  const double length = rated ? bar_length(percent) : 0;
  return fmt::format(
      "<rect x='{:.1f}' y='{:.1f}' width='{:.1f}' height='{}' fill='{}'/>"
      "<text x='{:.1f}' y='{:.1f}'>{}</text>\n",
      x, y, length, kRow - 5, color, x + length + 5, y + 10.5, rated ? fmt::format("{:.1f} %", percent) : "none met");
}

}  // namespace

std::string bar_chart_svg(const std::vector<BarGroup>& groups) {
  double height = kTop;
  for (const BarGroup& group : groups) height += kTitle + kRow * static_cast<double>(group.bars.size());
  const double left = kLabel, right = kLabel + kBar + kGap;
  std::string svg = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' width='{0}' height='{1}' viewBox='0 0 {0} {1}' "
      "font-family='sans-serif' font-size='11'>\n<rect width='100%' height='100%' fill='white'/>\n"
      "<text x='{2}' y='22' font-weight='bold'>deadlines missed, of those the oracle meets</text>"
      "<text x='{3}' y='22' font-weight='bold'>distortion above the oracle's</text>\n",
      right + kBar + kGap, height + 10, left, right);
  double y = kTop;
  for (const BarGroup& group : groups) {
    svg += fmt::format("<text x='8' y='{}' font-size='13' font-weight='bold'>{}</text>\n", y + 16, group.title);
    y += kTitle - 8;
    for (const Bar& entry : group.bars) {
      const bool ours = entry.policy.rfind("kvpack", 0) == 0;
      svg += fmt::format("<text x='{}' y='{}' text-anchor='end'{}>{}</text>\n", kLabel - 8, y + 10.5,
                         ours ? " font-weight='bold'" : "", entry.policy);
      svg += bar(left, y, entry.missed_percent, true, ours ? "#1a7f37" : "#8c959f");
      svg += bar(right, y, entry.above_percent, entry.rated, ours ? "#1a7f37" : "#8c959f");
      y += kRow;
    }
    y += 8;
  }
  return svg + "</svg>\n";
}

}  // namespace kvpack
