// SPDX-License-Identifier: Apache-2.0
#include "cli/token_choice.h"

#include <fmt/format.h>

#include "cli/console.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/quantities.h"
#include "codec/context_profile.h"
#include "codec/token_keep.h"
#include "codec/token_selection.h"
#include "formats/npy_array.h"

namespace kvpack::cli {
namespace {

// A context has at most 2^26 tokens, and an array of 2^30 numbers is larger than any real one.
constexpr uint64_t kMaxScores = uint64_t{1} << 30;

Result<TokenScores> read_scores(const std::string& path, const KvTensor& tensor) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, read_input(path));
  const auto array = read_npy_array(bytes, kMaxScores);
  if (!array.ok()) return about_file(array.error(), path);
  auto scores = spread_token_scores(array->shape, array->values, tensor);
  return scores.ok() ? std::move(scores) : about_file(scores.error(), path);
}

Result<TokenScores> measure_scores(const KvFile& file, const ModelFacts* facts, const ScoreMeasurement& measurement,
                                   unsigned threads) {
  if (facts == nullptr || measurement.model_path.empty()) {
    return invalid_argument("--saliency engine needs the model's weights: --model with a GGUF");
  }
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_file_source(measurement.model_path));
  ContextProfileOptions options;
  options.threads = threads;
  options.progress = measurement.progress;
  if (measurement.queries > 0) options.queries = measurement.queries;
  const auto measured = measure_token_scores(file, *facts, *source, options);
  if (!measured.ok()) return measured.error().within("--saliency engine");
  return spread_token_scores(measured->shape, measured->values, file.tensor);
}

Status check_arguments(const TokenArguments& arguments) {
  if (arguments.keep_top && *arguments.keep_top > 1) {
    return invalid_argument(
        fmt::format("--keep-top {}: a share of the tokens, above 0 and at most 1", *arguments.keep_top));
  }
  if (arguments.per_head && !arguments.keep_top) return invalid_argument("--per-head belongs to --keep-top");
  if (arguments.merge_dropped && !arguments.selects()) {
    return invalid_argument("--merge-dropped needs --keep or --keep-top: nothing is dropped without them");
  }
  return {};
}

// The scores to go by: the caller's, or the profile's where they are needed.
Result<std::optional<TokenScores>> scores_for(const TokenArguments& arguments, const ModelFacts* facts,
                                              const KvFile& file, const EncodeOptions& options,
                                              const ScoreMeasurement& measurement) {
  std::optional<TokenScores> scores;
  if (arguments.saliency == kMeasuredSaliency) {
    KVPACK_ASSIGN_OR_RETURN(scores, measure_scores(file, facts, measurement, options.threads));
  } else if (!arguments.saliency.empty()) {
    KVPACK_ASSIGN_OR_RETURN(scores, read_scores(arguments.saliency, file.tensor));
  } else if (arguments.selects() && options.profile != nullptr && facts != nullptr) {
    auto predicted = predict_token_scores(file.tensor, *facts, *options.profile);
    if (predicted.ok()) scores = std::move(predicted).value();
    if (!predicted.ok() && arguments.keep_top) return predicted.error();
  } else if (arguments.keep_top) {
    return invalid_argument("--keep-top goes by token weights: give --saliency, or a profile (with --model)");
  }
  return scores;
}

Status keep_some(const TokenArguments& arguments, const KvReadOptions& read, const ModelFacts* facts,
                 const std::optional<TokenScores>& scores, KvFile& file, EncodeOptions& options,
                 std::vector<std::string>& notes) {
  TokenScores keep;
  if (arguments.keep_top) {
    KVPACK_ASSIGN_OR_RETURN(keep, keep_top_tokens(file.tensor, *scores, *arguments.keep_top, arguments.per_head));
  } else {
    KVPACK_ASSIGN_OR_RETURN(keep, read_scores(arguments.keep, file.tensor));
  }
  SelectOptions select;
  select.read = read;
  select.merge = arguments.merge_dropped;
  select.profile = options.profile;
  select.scores = scores ? &*scores : nullptr;
  select.threads = options.threads;
  KVPACK_ASSIGN_OR_RETURN(SelectedContext selected, select_tokens(file, facts, keep, select));
  notes.push_back(fmt::format(
      "{} of {} tokens kept{}; sizes and bits are of these", grouped(selected.kept_tokens), grouped(selected.tokens),
      selected.replaced_share > 0 ? fmt::format(", {:.1f} % of their heads dropped", 100 * selected.replaced_share)
                                  : ""));
  if (file.format != selected.file.format) {
    notes.emplace_back("an npy array has no positions: what is kept is a safetensors file");
  }
  options.token_weights = std::move(selected.weights);
  options.sinks = std::move(selected.sinks);
  file = std::move(selected.file);
  return {};
}

}  // namespace

void declare_tokens(CLI::App& verb, TokenArguments& arguments) {
  auto* saliency = verb.add_option("--saliency", arguments.saliency,
                                   "scores of the tokens, .npy [layer][kv_head][token] or [token]: larger ones are "
                                   "kept more exactly (default: the profile's); or 'engine': measured by taking the "
                                   "context's last tokens through the model (as many as --measure says)");
  saliency->type_name(kFileType);
  auto* keep =
      verb.add_option("--keep", arguments.keep, "keep only these tokens, .npy mask [token] or [layer][kv_head][token]");
  keep->type_name(kFileType);
  add_number_above(verb, "--keep-top", arguments.keep_top, 0,
                   "keep only this share of the tokens, those of the highest scores")
      ->excludes(keep);
  verb.add_flag("--per-head", arguments.per_head, "with --keep-top: every head keeps its own");
  verb.add_flag("--merge-dropped", arguments.merge_dropped,
                "average dropped tokens into the most similar kept ones near them");
  verb.add_flag("--no-token-classes", arguments.no_token_classes, "the same step for every token")->excludes(saliency);
}

Status choose_tokens(const TokenArguments& arguments, const KvReadOptions& read, const ModelFacts* facts, KvFile& file,
                     EncodeOptions& options, const ScoreMeasurement& measurement, std::vector<std::string>& notes) {
  KVPACK_RETURN_IF_ERROR(check_arguments(arguments));
  KVPACK_ASSIGN_OR_RETURN(std::optional<TokenScores> scores, scores_for(arguments, facts, file, options, measurement));
  if (arguments.selects()) {
    KVPACK_RETURN_IF_ERROR(keep_some(arguments, read, facts, scores, file, options, notes));
  } else if (scores) {
    options.token_weights = std::move(*scores);
  }
  if (arguments.no_token_classes) options.token_weights.assign(file.tensor.planes.size(), {});
  return {};
}

}  // namespace kvpack::cli
