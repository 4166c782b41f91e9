// SPDX-License-Identifier: Apache-2.0
// What encode does about single tokens: scores that replace the profile's (--saliency), tokens that are left out
// (--keep, --keep-top), or no difference between tokens at all (--no-token-classes).
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "codec/archive_codec.h"

namespace kvpack::cli {

// The value of --saliency that has the scores measured: the context's last tokens are taken through the model.
inline constexpr const char* kMeasuredSaliency = "engine";

struct TokenArguments {
  std::string saliency;  // .npy, or kMeasuredSaliency; "": none
  std::string keep;      // .npy; "": all
  std::optional<double> keep_top;
  bool per_head = false;
  bool merge_dropped = false;
  bool no_token_classes = false;

  bool selects() const { return !keep.empty() || keep_top.has_value(); }
};

void declare_tokens(CLI::App& verb, TokenArguments& arguments);

// Where scores can be measured.
struct ScoreMeasurement {
  std::string model_path;
  uint32_t queries = 0;
  ProgressFn progress;
};

// Reads the arrays or measures, replaces `file` by what is kept of it, and sets `options.token_weights`. `read` is what
// the file was read with, `facts` what holds for it (may be null). One line per thing done is added to `notes`.
Status choose_tokens(const TokenArguments& arguments, const KvReadOptions& read, const ModelFacts* facts, KvFile& file,
                     EncodeOptions& options, const ScoreMeasurement& measurement, std::vector<std::string>& notes);

}  // namespace kvpack::cli
