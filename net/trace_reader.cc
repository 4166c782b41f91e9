// SPDX-License-Identifier: Apache-2.0
// Trace files (trace.h).
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/byte_io.h"
#include "net/trace.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxTraceBytes = 64ull << 20;
constexpr double kBytesPerKilobit = 1000.0 / 8;
constexpr double kBytesPerMegabit = 1e6 / 8;

Result<BandwidthTrace> parse_json_trace(std::string name, std::string_view text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_array()) return invalid_argument(name + ": expected a JSON list of periods");
  std::vector<TracePeriod> periods;
  for (const auto& entry : json) {
    const auto number = [&entry](const char* field, bool required) -> std::optional<double> {
      if (!entry.is_object()) return std::nullopt;
      if (!entry.contains(field)) return required ? std::nullopt : std::optional<double>(0);
      return entry[field].is_number() ? std::optional<double>(entry[field].get<double>()) : std::nullopt;
    };
    const auto duration_ms = number("duration_ms", true);
    const auto bandwidth_kbps = number("bandwidth_kbps", true);
    const auto latency_ms = number("latency_ms", false);
    if (!duration_ms || !bandwidth_kbps || !latency_ms) {
      return invalid_argument(
          fmt::format("{}: period {} is not {{duration_ms, bandwidth_kbps, latency_ms}}", name, periods.size()));
    }
    periods.push_back({*duration_ms / 1000, *bandwidth_kbps * kBytesPerKilobit, *latency_ms / 1000});
  }
  return BandwidthTrace::create(std::move(name), std::move(periods));
}

// "SECONDS MBIT_PER_S": the bandwidth from that time on.
Result<BandwidthTrace> parse_text_trace(std::string name, std::string_view text) {
  std::vector<TracePeriod> periods;
  double last_s = 0;
  for (size_t line_number = 1; !text.empty(); ++line_number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    line = line.substr(0, line.find('#'));
    double numbers[2];
    size_t found = 0;
    while (true) {
      const size_t begin = line.find_first_not_of(" \t\r,");
      if (begin == std::string_view::npos) break;
      line.remove_prefix(begin);
      const auto [stopped, error] = std::from_chars(line.data(), line.data() + line.size(), numbers[found % 2]);
      if (error != std::errc() || ++found > 2) {
        found = 3;
        break;
      }
      line.remove_prefix(static_cast<size_t>(stopped - line.data()));
    }
    if (found == 0) continue;
    if (found != 2 || (!periods.empty() && numbers[0] < last_s)) {
      return invalid_argument(
          fmt::format("{}: line {} is not \"SECONDS MBIT_PER_S\" with ascending seconds", name, line_number));
    }
    if (!periods.empty()) periods.back().duration_s = numbers[0] - last_s;
    last_s = numbers[0];
    periods.push_back({1, numbers[1] * kBytesPerMegabit, 0});
  }
  // The last line has no end: it lasts as long as the one before.
  if (periods.size() > 1) periods.back().duration_s = periods[periods.size() - 2].duration_s;
  return BandwidthTrace::create(std::move(name), std::move(periods));
}

}  // namespace

Result<BandwidthTrace> parse_trace(std::string name, std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return invalid_argument(name + ": the trace is empty");
  return text[first] == '[' || text[first] == '{' ? parse_json_trace(std::move(name), text)
                                                  : parse_text_trace(std::move(name), text);
}

Result<BandwidthTrace> read_trace(const std::string& path) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes file, read_whole_file(path, kMaxTraceBytes));
  return parse_trace(std::filesystem::path(path).filename().string(), as_text(file));
}

}  // namespace kvpack
