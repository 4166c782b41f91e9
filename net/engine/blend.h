// SPDX-License-Identifier: Apache-2.0
// What the chunks of a joined context do not know of each other, restored by computing some tokens again: a few percent
// of a prefill instead of all of it. Runs the model's own weights (codec/subset_forward.h): an engine's interface takes
// whole tokens in runs, not single tokens in some layers (README.md, "Blend"). It can be left to an engine all the
// same.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "codec/attention_layers.h"
#include "net/engine/blend_context.h"
#include "net/engine/blend_selection.h"

namespace kvpack {

inline constexpr double kBlendRatio = 0.15;

struct BlendOptions {
  BlendSelect select = BlendSelect::kHkvd;
  // Share of the chunks' tokens to recompute, 0 to 1; unset: as many as `load_seconds` hide.
  std::optional<double> ratio = kBlendRatio;
  double load_seconds = 0;
  // kHkvd: the layer where tokens are chosen. kQuery: behind how many layers the query stops to look; 0: half of them.
  uint32_t check_layer = 1;
  uint32_t query_layers = 0;
  unsigned threads = 0;
  // Called once, before tokens are chosen, with what each of the chunks' tokens is worth: kQuery: the attention that
  // the query pays to it, kHkvd: its deviation, kEpic: 1. It may bring better copies into the context
  // (JoinedContext::replace); what it takes is no part of BlendReport::seconds.
  std::function<Status(std::span<const float> score)> refine;
  // Who computes the chosen tokens and the query (ascending) and stores them, instead of this library: in all layers,
  // so kHkvd chooses on its check layer and narrows no further.
  std::function<Status(std::span<const uint32_t> tokens)> recompute;
  std::function<void(uint64_t done, uint64_t total, const std::string& phase)> progress;
};

struct BlendReport {
  double ratio = 0;               // what was aimed at
  uint32_t chosen = 0;            // tokens of chunks that were computed again, at the first layer after the choice
  uint64_t token_layers = 0;      // computed: tokens times layers, for the choice and the query as well
  uint64_t all_token_layers = 0;  // of a prefill of everything
  double seconds = 0;
  double seconds_per_token = 0;  // of a token in all layers
};

// The context's query is computed, and of its chunks what `options` choose; both are stored in it. Errors:
// invalid_argument (a ratio out of range, no query for kQuery), unsupported (a model whose layers are not understood,
// or not that of the chunks), io.
Result<BlendReport> blend(JoinedContext& context, const ModelWeights& weights, const ModelAttention& attention,
                          const BlendOptions& options);

}  // namespace kvpack
