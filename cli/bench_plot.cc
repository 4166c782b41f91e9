// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/bench_curve.h"

namespace kvpack::cli {
namespace {

constexpr double kWidth = 860, kHeight = 560;
constexpr double kLeft = 70, kRight = 190, kTop = 40, kBottom = 50;
constexpr double kLeastKl = 1e-6;  // what is exact lies on the lower edge
constexpr const char* kColors[] = {"#0b6e4f", "#d1495b", "#30638e", "#edae49", "#7b2d8b", "#00798c", "#8d6a3f",
                                   "#5c5c5c", "#e07a5f", "#3d405b", "#81b29a", "#b56576", "#6d597a", "#355070"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

// A logarithmic axis from one value to another, in pixels.
struct Axis {
  double low = 1, high = 10;
  double from = 0, to = 1;

  double at(double value) const { return from + (to - from) * std::log(value / low) / std::log(high / low); }
};

struct Plot {
  Axis bits, kl;
  std::string body;

  void line(double x1, double y1, double x2, double y2, const char* color) {
    body += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1, x2,
                        y2, color);
  }
  void text(double x, double y, const char* anchor, const std::string& words, const char* color = "#333") {
    body += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\">{}</text>\n", x, y, anchor,
                        color, escaped(words));
  }
};

double shown_kl(const BenchPoint& point) { return std::max(kLeastKl, point.predictions->kl); }

Plot make_axes(const std::vector<BenchPoint>& points) {
  Plot plot;
  double most_bits = 1, least_bits = 16, most_kl = kLeastKl * 10, least_kl = 1;
  for (const BenchPoint& point : points) {
    most_bits = std::max(most_bits, point.bits_per_value);
    least_bits = std::min(least_bits, point.bits_per_value);
    most_kl = std::max(most_kl, shown_kl(point));
    least_kl = std::min(least_kl, shown_kl(point));
  }
  plot.bits = {least_bits / 1.15, most_bits * 1.15, kLeft, kWidth - kRight};
  plot.kl = {least_kl / 1.5, most_kl * 1.5, kHeight - kBottom, kTop};
  return plot;
}

void draw_grid(Plot& plot) {
  for (const double bits : {0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0}) {
    if (bits < plot.bits.low || bits > plot.bits.high) continue;
    plot.line(plot.bits.at(bits), kTop, plot.bits.at(bits), kHeight - kBottom, "#ddd");
    plot.text(plot.bits.at(bits), kHeight - kBottom + 18, "middle", fmt::format("{:g}", bits));
  }
  for (int power = -6; power <= 2; ++power) {
    const double kl = std::pow(10.0, power);
    if (kl < plot.kl.low || kl > plot.kl.high) continue;
    plot.line(kLeft, plot.kl.at(kl), kWidth - kRight, plot.kl.at(kl), "#ddd");
    plot.text(kLeft - 8, plot.kl.at(kl) + 4, "end", fmt::format("{:g}", kl));
  }
  plot.text((kLeft + kWidth - kRight) / 2, kHeight - 10, "middle", "bits per value, all bytes counted");
  plot.text(kLeft - 8, kTop - 8, "end", "mean KL");
}

void draw_family(Plot& plot, std::vector<BenchPoint> points, const std::string& family, size_t index) {
  const char* color = kColors[index % std::size(kColors)];
  std::erase_if(points, [&](const BenchPoint& point) { return point.family != family; });
  std::sort(points.begin(), points.end(),
            [](const BenchPoint& a, const BenchPoint& b) { return a.bits_per_value < b.bits_per_value; });
  std::string path;
  for (const BenchPoint& point : points) {
    const double x = plot.bits.at(point.bits_per_value);
    const double y = plot.kl.at(shown_kl(point));
    path += fmt::format("{:.1f},{:.1f} ", x, y);
    plot.body += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"><title>{}: {:.2f} bits, KL "
        "{:.2g}</title></circle>\n",
        x, y, color, escaped(point.name), point.bits_per_value, point.predictions->kl);
  }
  const bool own = family.starts_with(kOwnFamily);
  plot.body += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"/>\n", path, color,
                           own ? 2.5 : 1.2);
  const double y = kTop + 10 + 20 * static_cast<double>(index);
  plot.line(kWidth - kRight + 15, y - 4, kWidth - kRight + 35, y - 4, color);
  plot.text(kWidth - kRight + 42, y, "start", family, color);
}

}  // namespace

std::string bench_plot(const std::vector<BenchPoint>& all, const std::string& title) {
  std::vector<BenchPoint> points = all;
  std::erase_if(points, [](const BenchPoint& point) { return !point.predictions.has_value(); });
  Plot plot = make_axes(points);
  draw_grid(plot);
  plot.text(kLeft, 18, "start", title);
  const std::vector<std::string> families = families_of(points);
  for (size_t f = 0; f < families.size(); ++f) draw_family(plot, points, families[f], f);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:g}\" height=\"{1:g}\" viewBox=\"0 0 {0:g} {1:g}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"white\"/>\n{2}</svg>\n",
      kWidth, kHeight, plot.body);
}

}  // namespace kvpack::cli
