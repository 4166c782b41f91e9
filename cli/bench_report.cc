// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_report.h"

#include <fmt/format.h>

#include "cli/bench_curve.h"
#include "cli/quantities.h"
#include "cli/table.h"

namespace kvpack::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string or_dash(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

std::string rate(const std::optional<double>& bytes_per_s) { return bytes_per_s ? short_rate(*bytes_per_s, 1) : "-"; }

// Our best curve: with a profile if there is one.
std::string own_family(const std::vector<BenchPoint>& points) {
  for (const BenchPoint& point : points) {
    if (point.family == kOwnProfileFamily) return kOwnProfileFamily;
  }
  return kOwnFamily;
}

// Our bits where the loss is the same, as a share of the method's.
std::optional<double> own_share(const std::vector<BenchPoint>& points, const BenchPoint& point) {
  if (!point.predictions || point.predictions->kl <= 0 || point.family.starts_with(kOwnFamily)) return std::nullopt;
  const auto own = bits_at_kl(points, own_family(points), point.predictions->kl);
  return own ? std::optional(own->bits / point.bits_per_value) : std::nullopt;
}

// The same between curves, where the loss is `kl` for both; none if either does not reach it or never loses as much.
std::optional<double> own_share_at(const std::vector<BenchPoint>& points, const std::string& family, double kl) {
  const auto own = bits_at_kl(points, own_family(points), kl);
  const auto other = bits_at_kl(points, family, kl);
  if (!own || !other || own->at_most || other->at_most || family == own_family(points)) return std::nullopt;
  return own->bits / other->bits;
}

// A table as it stands on a terminal, or as Markdown has it.
class Rows {
 public:
  Rows(std::vector<std::string> titles, bool markdown) : titles_(std::move(titles)), markdown_(markdown) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void print(const Console& console) const {
    if (!markdown_) {
      std::vector<Table::Column> columns;
      for (const std::string& title : titles_) {
        columns.push_back({title, columns.empty() ? Table::Align::kLeft : Table::Align::kRight});
      }
      Table table(columns);
      for (const auto& row : rows_) table.add_row(row);
      table.print(console);
      return;
    }
    console.print(fmt::format("| {} |\n|---{}|\n", fmt::join(titles_, " | "), repeated("|---:", titles_.size() - 1)));
    for (const auto& row : rows_) console.print(fmt::format("| {} |\n", fmt::join(row, " | ")));
  }

 private:
  static std::string repeated(const std::string& text, size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += text;
    return out;
  }
  std::vector<std::string> titles_;
  std::vector<std::vector<std::string>> rows_;
  bool markdown_;
};

void print_methods(const std::vector<BenchPoint>& points, bool markdown, const Console& console) {
  const bool asked = !points.empty() && points[0].predictions.has_value();
  const bool predicted = !points.empty() && points[0].predicted_kl.has_value();
  std::vector<std::string> titles = {"method", "bits per value", "error"};
  if (predicted) titles.emplace_back("predicted KL");
  if (asked) titles.insert(titles.end(), {"KL", "delta-NLL", "top-1", "ours at its KL"});
  titles.insert(titles.end(), {"encode/thread", "decode/thread"});
  Rows rows(titles, markdown);
  for (const BenchPoint& point : points) {
    std::vector<std::string> cells = {point.name, fmt::format("{:.3f}", point.bits_per_value),
                                      short_error(point.relative_error)};
    if (predicted) cells.push_back(or_dash(point.predicted_kl, "{:.5f}"));
    if (point.predictions) {
      cells.push_back(fmt::format("{:.5f}", point.predictions->kl));
      cells.push_back(fmt::format("{:+.4f}", point.predictions->delta_nll));
      cells.push_back(fmt::format("{:.3f}", point.predictions->top1));
      cells.push_back(or_dash(own_share(points, point), "{:.2f} x"));
    }
    cells.push_back(rate(point.encode_bytes_per_s));
    cells.push_back(rate(point.decode_bytes_per_s));
    rows.add(std::move(cells));
  }
  rows.print(console);
}

std::string bits_cell(const std::optional<CurveBits>& found) {
  return found ? fmt::format("{}{:.2f}", found->at_most ? "< " : "", found->bits) : "-";
}

void print_at_losses(const std::vector<BenchPoint>& points, bool markdown, const Console& console) {
  std::vector<std::string> titles = {"bits per value at KL"};
  for (const double kl : kComparedKl) titles.insert(titles.end(), {fmt::format("{:g}", kl), "ours"});
  Rows rows(titles, markdown);
  for (const std::string& family : families_of(points)) {
    std::vector<std::string> cells = {family};
    for (const double kl : kComparedKl) {
      cells.push_back(bits_cell(bits_at_kl(points, family, kl)));
      cells.push_back(or_dash(own_share_at(points, family, kl), "{:.2f} x"));
    }
    rows.add(std::move(cells));
  }
  console.print("\n");
  rows.print(console);
}

void print_layering(const std::vector<BenchPoint>& points, bool markdown, const Console& console) {
  Rows rows({"nesting", "level", "nested bytes", "alone", "overhead", "tiles / entropy"}, markdown);
  bool any = false;
  for (const BenchPoint& point : points) {
    for (size_t level = 0; level < point.layering.size(); ++level) {
      const LevelCost& cost = point.layering[level];
      rows.add({point.name, std::to_string(level), grouped(cost.nested_bytes), grouped(cost.alone_bytes),
                fmt::format("{:+.2f} %", 100 * cost.overhead()),
                fmt::format("{:.3f}", per(static_cast<double>(cost.tile_bytes), cost.entropy_bytes))});
      any = true;
    }
  }
  if (!any) return;
  console.print("\n");
  rows.print(console);
}

Json json_of(const BenchPoint& point) {
  Json json = {{"name", point.name},
               {"family", point.family},
               {"recipe", point.recipe},
               {"bytes", point.bytes},
               {"bits_per_value", point.bits_per_value},
               {"relative_error", point.relative_error},
               {"seconds", point.seconds}};
  if (point.encode_bytes_per_s) json["encode_bytes_per_s_per_thread"] = *point.encode_bytes_per_s;
  if (point.decode_bytes_per_s) json["decode_bytes_per_s_per_thread"] = *point.decode_bytes_per_s;
  if (point.predicted_kl) json["predicted_kl"] = *point.predicted_kl;
  if (point.predictions) {
    json["kl"] = point.predictions->kl;
    json["delta_nll"] = point.predictions->delta_nll;
    json["top1"] = point.predictions->top1;
  }
  for (const LevelCost& cost : point.layering) {
    json["levels"].push_back({{"nested_bytes", cost.nested_bytes},
                              {"alone_bytes", cost.alone_bytes},
                              {"overhead", cost.overhead()},
                              {"tile_bytes", cost.tile_bytes},
                              {"entropy_bytes", cost.entropy_bytes}});
  }
  return json;
}

}  // namespace

void print_bench(const BenchRun& run, bool markdown, const Console& console) {
  const std::vector<BenchPoint> points = mean_points(run.points);
  print_methods(points, markdown, console);
  if (!points.empty() && points[0].predictions) print_at_losses(points, markdown, console);
  print_layering(points, markdown, console);
}

Json json_of(const BenchRun& run) {
  const std::vector<BenchPoint> means = mean_points(run.points);
  Json json = {{"threads", run.threads},
               {"continuation_tokens", run.continuation},
               {"files", Json::array()},
               {"mean", Json::array()},
               {"bits_at_kl", Json::array()}};
  for (size_t f = 0; f < run.files.size(); ++f) {
    Json of_file = {{"path", run.files[f]}, {"methods", Json::array()}};
    for (const BenchPoint& point : run.points[f]) of_file["methods"].push_back(json_of(point));
    json["files"].push_back(std::move(of_file));
  }
  for (const BenchPoint& point : means) {
    json["mean"].push_back(json_of(point));
    if (const auto share = own_share(means, point)) json["mean"].back()["own_share_at_its_kl"] = *share;
  }
  for (const std::string& family : families_of(means)) {
    for (const double kl : kComparedKl) {
      if (const auto bits = bits_at_kl(means, family, kl)) {
        json["bits_at_kl"].push_back(
            {{"family", family}, {"kl", kl}, {"bits_per_value", bits->bits}, {"at_most", bits->at_most}});
        if (const auto share = own_share_at(means, family, kl)) json["bits_at_kl"].back()["own_share"] = *share;
      }
    }
  }
  return json;
}

}  // namespace kvpack::cli
