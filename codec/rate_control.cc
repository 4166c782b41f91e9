// SPDX-License-Identifier: Apache-2.0
#include "codec/rate_control.h"

#include <algorithm>
#include <cmath>

namespace kvpack {
namespace {

// Step over deviation at `low`. KL of a real model's predictions is about .03 there, .005 a third below and .0005 at a
// ninth (README, "Measured").
constexpr double kLowStep = 1.08;
// The same with a profile, whose components all take one step: KL .022, .002 and .0002 on SmolLM2-135M.
constexpr double kProfileLowStep = 0.63;
constexpr int kMostTrials = 12;
// Close enough: within 1 % below the bytes asked for, or 10 % below the error.
constexpr double kBytesTolerance = 0.01;
constexpr double kErrorTolerance = 0.1;
constexpr double kFinestLog = -16;  // octaves around the first guess that are searched
constexpr double kCoarsestLog = 12;

StepRule scaled(const StepRule& rule, double octaves) {
  StepRule result = rule;
  result.per_deviation *= std::exp2(octaves);
  result.absolute *= std::exp2(octaves);
  result.profile_step *= std::exp2(octaves);
  return result;
}

}  // namespace

StepRule step_rule_of(Quality quality) {
  switch (quality) {
    case Quality::kLow:
      return {kLowStep, 0, 1, kProfileLowStep};
    case Quality::kHigh:
      return {kLowStep / 9, 0, 3, kProfileLowStep / 9};
    default:
      return {kLowStep / 3, 0, 2, kProfileLowStep / 3};
  }
}

Result<std::optional<StepRule>> search_step(const SearchTarget& target, double values, const TrialFn& trial) {
  const bool by_error = target.largest_error.has_value();
  StepRule base = step_rule_of(Quality::kMedium);
  if (by_error) base = {0, *target.largest_error, 1, 0};
  // Positive: the target is met with so much to spare, in the measure's own ratio.
  const auto spare = [&](const Trial& result) {
    return by_error ? 1 - result.max_error / *target.largest_error : 1 - result.bytes / *target.most_bytes;
  };
  const double tolerance = by_error ? kErrorTolerance : kBytesTolerance;
  // What the aim, just inside the target, would make zero.
  const auto excess = [&](const Trial& result) {
    return by_error ? std::log2(std::max(result.max_error, 1e-30) / (*target.largest_error * (1 - tolerance / 2)))
                    : std::log2(result.bytes / (*target.most_bytes * (1 - tolerance / 2)));
  };
  // Finer steps lower the error and raise the bytes: `meets` lies on one side, `fails` on the other.
  struct End {
    double at = 0;
    std::optional<double> excess;  // once tried
  };
  End meets{by_error ? kFinestLog : kCoarsestLog, {}};
  End fails{by_error ? kCoarsestLog : kFinestLog, {}};
  std::optional<StepRule> best;
  double at = 0;
  for (int n = 0; n < kMostTrials && std::fabs(meets.at - fails.at) > 1e-3; ++n) {
    const StepRule rule = scaled(base, at);
    KVPACK_ASSIGN_OR_RETURN(Trial result, trial(rule, by_error));
    const double margin = spare(result);
    (margin >= 0 ? meets : fails) = {at, excess(result)};
    if (margin >= 0) {
      best = rule;
      if (margin <= tolerance) break;
    }
    const double middle = (meets.at + fails.at) / 2;
    double guess = middle;
    if (meets.excess && fails.excess) {
      guess = meets.at - (fails.at - meets.at) * *meets.excess / (*fails.excess - *meets.excess);
    } else if (by_error) {
      guess = at - excess(result);
    } else if (values > 0) {
      // An octave of step is about one bit per value while most components are alive, and less below: go beyond.
      guess = at + 1.5 * 8 * (result.bytes - *target.most_bytes * (1 - tolerance / 2)) / values;
    }
    const double low = std::min(meets.at, fails.at);
    const double high = std::max(meets.at, fails.at);
    at = guess > low && guess < high && n % 4 != 3 ? guess : middle;
  }
  return best;
}

}  // namespace kvpack
