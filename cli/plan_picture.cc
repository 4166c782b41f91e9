// SPDX-License-Identifier: Apache-2.0
#include "cli/plan_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace kvpack::cli {
namespace {

constexpr double kLeft = 70, kTop = 50, kWidth = 720, kMaxHeight = 640;
constexpr std::array<const char*, 8> kLevelColors = {"#9ecae1", "#4292c6", "#08519c", "#08306b",
                                                     "#54278f", "#3f007d", "#252525", "#000000"};
constexpr const char* kEngineColor = "#e6842a";

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (static_cast<unsigned char>(c) >= 0x20) {
      out += c;
    }
  }
  return out;
}

struct Axes {
  double end_s = 1;
  double row = 1;  // height of a chunk
  double x(double time_s) const { return kLeft + kWidth * std::min(1.0, time_s / end_s); }
  double y(uint32_t chunk) const { return kTop + row * chunk; }
};

// What a chunk held from one time to another.
std::string span_of(const Axes& axes, uint32_t chunk, double from_s, double to_s, const char* color) {
  return fmt::format("<rect x='{:.2f}' y='{:.2f}' width='{:.2f}' height='{:.2f}' fill='{}'/>\n", axes.x(from_s),
                     axes.y(chunk), std::max(0.5, axes.x(to_s) - axes.x(from_s)), std::max(0.3, axes.row * 0.9), color);
}

std::string vertical(const Axes& axes, double time_s, double bottom, const char* color, const std::string& label) {
  return fmt::format(
      "<line x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}' stroke='{3}' stroke-width='1.5'/>"
      "<text x='{0:.1f}' y='{4}' text-anchor='middle' fill='{3}'>{5}</text>\n",
      axes.x(time_s), kTop - 4, bottom, color, kTop - 8, label);
}

std::string legend(uint32_t levels, double y) {
  std::string svg;
  double x = kLeft;
  const auto entry = [&](const char* color, const std::string& label) {
    svg += fmt::format("<rect x='{}' y='{}' width='11' height='11' fill='{}'/><text x='{}' y='{}'>{}</text>\n", x, y,
                       color, x + 15, y + 10, label);
    x += 95;
  };
  for (uint32_t level = 0; level < levels; ++level) {
    entry(kLevelColors[std::min<size_t>(level, kLevelColors.size() - 1)],
          level == 0 ? "base" : fmt::format("level {}", level));
  }
  entry(kEngineColor, "recomputed");
  return svg;
}

}  // namespace

std::string plan_picture(const Scenario& scenario, const Outcome& outcome, const std::string& title) {
  const uint32_t chunks = scenario.context.chunks();
  const double deadline_s = scenario.goal.deadline_s;
  Axes axes;
  axes.end_s = 1.05 * std::max(outcome.ttft_s, std::isfinite(deadline_s) ? deadline_s : 0.0);
  axes.row = std::min(14.0, kMaxHeight / std::max(1u, chunks));
  const double bottom = axes.y(chunks);
  std::string svg = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' width='{0}' height='{1}' viewBox='0 0 {0} {1}' "
      "font-family='sans-serif' font-size='11'>\n<rect width='100%' height='100%' fill='white'/>\n"
      "<text x='{2}' y='18' font-size='13' font-weight='bold'>{3}</text>\n",
      kLeft + kWidth + 40, bottom + 60, kLeft, escaped(title));
  // Later levels paint over earlier ones.
  for (const BlockArrival& block : outcome.arrivals) {
    svg += span_of(axes, block.chunk, block.arrived_s, outcome.ttft_s,
                   kLevelColors[std::min<size_t>(block.level, kLevelColors.size() - 1)]);
  }
  for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
    if (outcome.computed_s[chunk] > 0) {
      svg += span_of(axes, chunk, outcome.computed_s[chunk], outcome.ttft_s, kEngineColor);
    }
  }
  svg += vertical(axes, outcome.ttft_s, bottom, "#1a7f37", fmt::format("first token {:.2f} s", outcome.ttft_s));
  if (std::isfinite(deadline_s)) {
    svg += fmt::format(
        "<line x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}' stroke='#cf222e' stroke-dasharray='5 3'/>"
        "<text x='{0:.1f}' y='{3}' text-anchor='middle' fill='#cf222e'>deadline {4:.2f} s</text>\n",
        axes.x(deadline_s), kTop - 4, bottom, bottom + 14, deadline_s);
  }
  svg += fmt::format("<text x='{}' y='{}' text-anchor='end'>chunk 0</text>\n", kLeft - 6, kTop + 9);
  svg += fmt::format("<text x='{}' y='{}' text-anchor='end'>chunk {}</text>\n", kLeft - 6, bottom - 1, chunks - 1);
  svg += fmt::format("<text x='{}' y='{}'>0 s</text>\n", kLeft, bottom + 14);
  return svg + legend(scenario.context.levels(), bottom + 30) + "</svg>\n";
}

}  // namespace kvpack::cli
