// SPDX-License-Identifier: Apache-2.0
// Search for the one step that meets a target: bytes or error as a function of the step, bisected on its logarithm.
#pragma once

#include <functional>
#include <optional>

#include "codec/archive_codec.h"
#include "codec/parameter_choice.h"
#include "formats/result.h"

namespace kvpack {

// The steps of the named qualities, each a third of the next coarser: low has one level, medium two, high three, and
// the lower levels of a high archive are the medium and the low one.
StepRule step_rule_of(Quality quality);

// What one trial encode gave.
struct Trial {
  double bytes = 0;      // of the whole archive
  double max_error = 0;  // only if asked for
};
using TrialFn = std::function<Result<Trial>(const StepRule& rule, bool with_error)>;

struct SearchTarget {
  std::optional<double> most_bytes;
  std::optional<double> largest_error;
};

// The best rule that meets the target: the finest step within the bytes, or the coarsest within the error. No value if
// none does (an error target below the stored type's own rounding, say).
Result<std::optional<StepRule>> search_step(const SearchTarget& target, double values, const TrialFn& trial);

}  // namespace kvpack
