// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/ttft/scenario_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "formats/byte_io.h"
#include "net/trace_generators.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxListBytes = 1 << 20;

// Chunks whose sizes and distortions differ as `spread` says (standard deviation of their logarithm).
ContextCosts costs_of(const nlohmann::json& json) {
  ContextCosts costs;
  const uint32_t tokens = json.at("tokens"), chunk_tokens = json.at("chunk_tokens");
  const double values_per_token = json.at("values_per_token");
  const std::vector<double> bits = json.at("bits_per_value"), distortion = json.at("distortion");
  std::mt19937_64 random(tokens);
  std::normal_distribution<double> spread(0, json.at("spread").get<double>());
  for (uint32_t first = 0; first < tokens; first += chunk_tokens) {
    costs.tokens.push_back(std::min(chunk_tokens, tokens - first));
  }
  costs.bytes.resize(bits.size());
  costs.distortion.resize(bits.size());
  for (const uint32_t chunk : costs.tokens) {
    const double values = chunk * values_per_token;
    const double difficulty = std::exp(spread(random));
    for (size_t level = 0; level < bits.size(); ++level) {
      costs.bytes[level].push_back(static_cast<uint64_t>(values * bits[level] / 8 * std::exp(spread(random) / 3)));
      costs.distortion[level].push_back(chunk * distortion[level] * difficulty * std::exp(spread(random) / 3));
    }
    costs.raw_bytes += static_cast<uint64_t>(values * 2);
  }
  costs.opening_bytes = kOpeningBytes;
  return costs;
}

std::vector<double> spaced_starts(const BandwidthTrace& trace, uint32_t windows) {
  std::vector<double> starts;
  for (uint32_t i = 0; i < windows; ++i) starts.push_back(trace.duration_s() * i / windows);
  return starts;
}

}  // namespace

Result<ScenarioList> read_scenarios(const std::string& path) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes file, read_whole_file(path, kMaxListBytes));
  try {
    const auto json = nlohmann::json::parse(as_text(file));
    ScenarioList list;
    for (const auto& context : json.at("contexts")) list.contexts.push_back({context.at("name"), costs_of(context)});
    list.engines_tokens_per_s = json.at("engines_tokens_per_s").get<std::vector<double>>();
    list.deadlines_s = json.at("deadlines_s").get<std::vector<double>>();
    list.fits = json.at("fits");
    list.windows_per_trace = json.at("windows_per_trace");
    list.last_prefill_s = json.at("last_prefill_s");
    list.decode_bytes_per_s = json.at("decode_bytes_per_s");
    return list;
  } catch (const nlohmann::json::exception& problem) {
    return invalid_argument(path + ": " + problem.what());
  }
}

Result<std::vector<BandwidthTrace>> read_traces(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code problem;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, problem)) {
    const auto extension = entry.path().extension();
    if (entry.is_regular_file() && (extension == ".json" || extension == ".txt")) paths.push_back(entry.path());
  }
  if (problem) return io_error(folder + ": " + problem.message());
  std::sort(paths.begin(), paths.end());
  std::vector<BandwidthTrace> traces;
  for (const std::string& path : paths) {
    KVPACK_ASSIGN_OR_RETURN(BandwidthTrace trace, read_trace(path));
    traces.push_back(std::move(trace));
  }
  if (traces.empty()) return invalid_argument(folder + ": holds no trace (*.json, *.txt)");
  return traces;
}

BenchLink scaled_link(const BandwidthTrace& trace, double bytes, double seconds, uint32_t windows) {
  return {trace.scaled(bytes / seconds / trace.mean_bytes_per_s()), spaced_starts(trace, windows)};
}

std::vector<BenchLink> generated_links(double bytes, double seconds, uint32_t windows) {
  constexpr double kLatencyS = 0.05;
  const double rate = bytes / seconds;
  std::vector<BenchLink> links;
  for (uint32_t i = 0; i < windows; ++i) {
    // When it happens: spread over the time until the deadline.
    const double at_s = seconds * (i + 0.5) / windows;
    links.push_back({step_trace(rate * 2, rate / 5, at_s, kLatencyS), {0}});
    links.push_back({step_trace(rate / 2, rate * 2, at_s, kLatencyS), {0}});
    links.push_back({outage_trace(rate * 1.25, at_s, seconds / 4, kLatencyS), {0}});
    links.push_back({token_bucket_trace(rate * 4, bytes * 0.8 * (i + 1) / windows, rate / 8, kLatencyS), {0}});
    links.push_back({ramp_trace(rate * 2, rate / 4, at_s * 1.5, kLatencyS), {0}});
    const BandwidthTrace lossy = lossy_trace(rate * 1.5, 4 / seconds, seconds / 6, kLatencyS, i);
    links.push_back({lossy, spaced_starts(lossy, windows)});
  }
  return links;
}

}  // namespace kvpack
