// SPDX-License-Identifier: Apache-2.0
// Contexts of several passages to join in several ways, and a real engine that judges what they became. Two kinds:
//
//   books    consecutive pieces of a text; the query is what follows, judged is how the text goes on after that
//   numbers  hidden_numbers.h cut in pieces, a sentence now and then in two; a question follows, judged is the answer
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/engine/blend.h"
#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {

struct BlendBenchArguments {
  std::string llama;
  std::string model;
  std::vector<std::string> texts;
  uint32_t pieces = 5;
  uint32_t piece_tokens = 128;
  uint32_t per_text = 3;   // contexts of one text
  uint32_t numbers = 12;   // contexts with numbers
  uint32_t questions = 2;  // of each
  uint32_t query = 32;
  uint32_t continuation = 48;
  uint32_t shared = 0;  // first tokens of the context, in front of every piece
  int threads = 2;
};
void declare_blend_bench(CLI::App& app, BlendBenchArguments& arguments);

// What is put together and asked.
struct BlendCase {
  std::vector<std::vector<int32_t>> pieces;  // without the shared tokens, but for the first
  std::vector<int32_t> query;
  std::vector<int32_t> judged;  // what should follow
  bool asks_number = false;
};

struct BlendTally {
  double kl = 0;  // sums
  double delta_nll = 0;
  uint32_t cases = 0;
  uint32_t found = 0;  // answers of which every token is the likeliest
  uint32_t asked = 0;

  void add(const BlendCase& one, const LogitMatrix& logits, const PredictionDistance& distance);
};

// A query without its last token, which is what the engine goes on from.
std::vector<int32_t> blended_query(const BlendCase& one);

class BlendBench {
 public:
  static Result<std::unique_ptr<BlendBench>> open(const BlendBenchArguments& arguments);

  Result<std::vector<BlendCase>> make_cases();
  // Every piece's KV, computed on its own, as the engine writes it.
  Result<std::vector<Bytes>> cache_pieces(const BlendCase& one);
  // The same as chunks.
  Result<std::vector<BlendChunk>> chunks_of(const std::vector<Bytes>& states);
  // The context and the query but its last token, computed by the engine; what it predicts of the judged tokens.
  Result<LogitMatrix> judge_prefill(const BlendCase& one);
  // The same from this context, whose query lacks its last token as well.
  Result<LogitMatrix> judge(const BlendCase& one, const JoinedContext& context);
  double prefill_seconds() const { return prefill_seconds_; }

  const ModelFacts& facts() const { return facts_; }
  const ModelWeights& weights() const { return *weights_; }
  const ModelAttention& attention() const { return *attention_; }

 private:
  BlendBench(LlamaEngine engine, ModelFacts facts, std::unique_ptr<ByteSource> source,
             const BlendBenchArguments& arguments)
      : engine_(std::move(engine)), facts_(std::move(facts)), source_(std::move(source)), arguments_(arguments) {}
  BlendCase cut(const std::vector<int32_t>& tokens) const;
  Result<LogitMatrix> judge(const BlendCase& one);

  LlamaEngine engine_;
  ModelFacts facts_;
  std::unique_ptr<ByteSource> source_;
  const BlendBenchArguments& arguments_;
  std::optional<ModelWeights> weights_;
  std::optional<ModelAttention> attention_;
  ScratchFolder scratch_;
  double prefill_seconds_ = 0;  // of the engine, contexts and queries
};

}  // namespace kvpack::engine
