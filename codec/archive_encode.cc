// SPDX-License-Identifier: Apache-2.0
// KvFile -> .kvp: the encoder, and the search for a step if a rate or an error was asked for.
#include <fmt/format.h>

#include <algorithm>

#include "codec/archive_codec.h"
#include "codec/archive_encoder.h"
#include "codec/encode_options.h"
#include "codec/encode_report.h"
#include "codec/rate_control.h"

namespace kvpack {
namespace {

std::string target_name(const EncodeOptions& options) {
  if (options.bits_per_value) return fmt::format("bits {}", *options.bits_per_value);
  if (options.ratio) return fmt::format("ratio {}", *options.ratio);
  return fmt::format("max-error {}", *options.max_error);
}

// The rule that meets the options' target; no value means lossless.
Result<std::optional<StepRule>> rule_for_target(const KvFile& file, const EncodeOptions& options,
                                                ArchiveEncoder& encoder, EncodeReport& report) {
  SearchTarget target;
  const double values = static_cast<double>(file.tensor.values());
  if (options.bits_per_value) target.most_bytes = *options.bits_per_value * values / 8;
  if (options.ratio) target.most_bytes = static_cast<double>(report.input_bytes) / *options.ratio;
  target.largest_error = options.max_error;
  double smallest = 0;
  const auto trial = [&](const StepRule& rule, bool with_error) -> Result<Trial> {
    KVPACK_ASSIGN_OR_RETURN(
        const ArchiveSizes sizes,
        encoder.encode(&rule, target_name(options), with_error ? Measuring::kAll : Measuring::kNone, nullptr, report));
    ++report.passes;
    const Trial result{static_cast<double>(sizes.bytes), report.max_error.value_or(0)};
    smallest = smallest == 0 ? result.bytes : std::min(smallest, result.bytes);
    return result;
  };
  KVPACK_ASSIGN_OR_RETURN(std::optional<StepRule> rule, search_step(target, values, trial));
  if (rule) return rule;
  if (options.max_error) {
    report.notes.push_back(
        fmt::format("max-error {} is below what the stored type can hold: encoded losslessly", *options.max_error));
    return rule;
  }
  return invalid_argument(
      fmt::format("{} cannot be reached: the smallest archive is {} bytes, {:.3f} bits per value, "
                  "ratio {:.2f}",
                  target_name(options), smallest, 8 * smallest / std::max(1.0, values),
                  static_cast<double>(report.input_bytes) / smallest));
}

}  // namespace

Result<EncodeReport> encode_archive(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options,
                                    ByteSink& sink) {
  KVPACK_RETURN_IF_ERROR(check_encode_options(file, options));
  EncodeReport report;
  report.input_bytes = file.tensor.storage != nullptr ? file.tensor.storage->size() : file.tensor.raw_bytes();
  const bool searching = options.bits_per_value || options.ratio || options.max_error;
  const bool lossy = searching || options.quality != Quality::kLossless;
  const bool any_rope = std::any_of(file.tensor.planes.begin(), file.tensor.planes.end(),
                                    [](const KvPlane& plane) { return plane.rope >= 0; });
  if (facts == nullptr && lossy) {
    report.notes.push_back("no model was given: keys are kept as they are (RoPE not undone), the archive is larger");
  } else if (facts != nullptr && lossy && !any_rope && !file.tensor.planes.empty()) {
    report.notes.push_back(facts->note.empty() ? "keys are taken as they are: the model's RoPE is unknown or none"
                                               : facts->note);
  }
  if (lossy && file.has_opaque_state) report.notes.push_back("state that is not attention KV is kept exactly");

  ArchiveEncoder encoder(file, facts, options);
  if (lossy) encoder.prepare(/*keep_statistics=*/searching);
  std::optional<StepRule> rule;
  if (searching) {
    KVPACK_ASSIGN_OR_RETURN(rule, rule_for_target(file, options, encoder, report));
  } else if (lossy) {
    rule = step_rule_of(options.quality);
    if (options.levels) rule->levels = *options.levels;
  }
  const std::string quality = !rule       ? std::string(quality_name(Quality::kLossless))
                              : searching ? target_name(options)
                                          : std::string(quality_name(options.quality));
  const Measuring measuring = options.measure_all || options.max_error ? Measuring::kAll : Measuring::kSample;
  KVPACK_ASSIGN_OR_RETURN(const ArchiveSizes sizes,
                          encoder.encode(rule ? &*rule : nullptr, quality, measuring, &sink, report));
  report.sinks = encoder.sink_count();
  report_sizes(file, sizes, report);
  return report;
}

}  // namespace kvpack
