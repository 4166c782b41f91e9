// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/blend_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "formats/kv_file.h"
#include "tests/engine/hidden_numbers.h"

namespace kvpack::engine {
namespace {

bool all_likeliest(const LogitMatrix& logits, const std::vector<int32_t>& answer) {
  for (size_t i = 0; i < answer.size(); ++i) {
    const float* row = logits.row(i);
    if (std::max_element(row, row + logits.vocabulary) - row != answer[i]) return false;
  }
  return true;
}

}  // namespace

std::vector<int32_t> blended_query(const BlendCase& one) { return {one.query.begin(), one.query.end() - 1}; }

void declare_blend_bench(CLI::App& app, BlendBenchArguments& arguments) {
  app.add_option("--llama", arguments.llama, "folder with llama.cpp's lib/ (see fetch_llama.sh)")->required();
  app.add_option("--model", arguments.model, "GGUF; with f32 weights (kvpack_widen_model) there is no floor under KL")
      ->required();
  app.add_option("--text", arguments.texts, "texts that are cut in pieces");
  app.add_option("--pieces", arguments.pieces)->capture_default_str();
  app.add_option("--piece", arguments.piece_tokens, "tokens of a piece")->capture_default_str();
  app.add_option("--per-text", arguments.per_text, "contexts of each text")->capture_default_str();
  app.add_option("--numbers", arguments.numbers, "contexts with hidden numbers")->capture_default_str();
  app.add_option("--questions", arguments.questions, "of each of those")->capture_default_str();
  app.add_option("--query", arguments.query, "tokens of the query, of texts")->capture_default_str();
  app.add_option("--continuation", arguments.continuation, "tokens judged, of texts")->capture_default_str();
  app.add_option("--shared", arguments.shared, "first tokens of a context that each piece is cached behind")
      ->capture_default_str();
  app.add_option("--threads", arguments.threads)->capture_default_str();
}

void BlendTally::add(const BlendCase& one, const LogitMatrix& logits, const PredictionDistance& distance) {
  kl += distance.kl;
  delta_nll += distance.delta_nll;
  ++cases;
  if (!one.asks_number) return;
  ++asked;
  found += all_likeliest(logits, one.judged);
}

Result<std::unique_ptr<BlendBench>> BlendBench::open(const BlendBenchArguments& arguments) {
  EngineOptions options;
  options.threads = arguments.threads;
  options.n_ctx = arguments.pieces * arguments.piece_tokens + arguments.query + arguments.continuation + 128;
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(arguments.llama + "/lib", arguments.model, options));
  KVPACK_ASSIGN_OR_RETURN(ModelFacts facts, read_model_facts(arguments.model));
  KVPACK_ASSIGN_OR_RETURN(auto source, open_file_source(arguments.model));
  auto bench =
      std::unique_ptr<BlendBench>(new BlendBench(std::move(engine), std::move(facts), std::move(source), arguments));
  const auto threads = static_cast<unsigned>(arguments.threads);
  KVPACK_ASSIGN_OR_RETURN(bench->weights_, ModelWeights::open(*bench->source_, threads));
  KVPACK_ASSIGN_OR_RETURN(bench->attention_, read_attention_layers(*bench->weights_, bench->facts_, threads));
  return bench;
}

// The pieces of a context.
BlendCase BlendBench::cut(const std::vector<int32_t>& tokens) const {
  BlendCase made;
  for (uint32_t p = 0; p < arguments_.pieces; ++p) {
    const auto from = tokens.begin() + p * arguments_.piece_tokens;
    made.pieces.emplace_back(from, from + arguments_.piece_tokens);
  }
  return made;
}

Result<std::vector<BlendCase>> BlendBench::make_cases() {
  std::vector<BlendCase> cases;
  const uint32_t context = arguments_.pieces * arguments_.piece_tokens;
  const uint32_t stride = context + arguments_.query + arguments_.continuation;
  for (const std::string& path : arguments_.texts) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_file(path));
    KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine_.tokenize(as_text(text)));
    for (uint32_t i = 0; i < arguments_.per_text && size_t{i + 1} * stride <= tokens.size(); ++i) {
      const std::vector<int32_t> part(tokens.begin() + i * stride, tokens.begin() + (i + 1) * stride);
      BlendCase made = cut(part);
      made.query.assign(part.begin() + context, part.begin() + context + arguments_.query);
      made.judged.assign(part.begin() + context + arguments_.query, part.end());
      cases.push_back(std::move(made));
    }
  }
  for (uint32_t seed = 0; seed < arguments_.numbers; ++seed) {
    KVPACK_ASSIGN_OR_RETURN(const NumbersText text, make_numbers_text(engine_, context, seed));
    for (uint32_t q = 0; q < arguments_.questions; ++q) {
      const HiddenNumber& number = text.numbers[(seed + q * 4 + 1) % text.numbers.size()];
      BlendCase made = cut(text.prefix);
      made.query = number.question;
      made.judged = number.answer;
      made.asks_number = true;
      cases.push_back(std::move(made));
    }
  }
  return cases;
}

Result<std::vector<Bytes>> BlendBench::cache_pieces(const BlendCase& one) {
  std::vector<Bytes> states;
  for (const std::vector<int32_t>& piece : one.pieces) {
    std::vector<int32_t> tokens;
    if (!states.empty()) tokens.assign(one.pieces[0].begin(), one.pieces[0].begin() + arguments_.shared);
    tokens.insert(tokens.end(), piece.begin(), piece.end());
    KVPACK_RETURN_IF_ERROR(engine_.prefill(tokens));
    KVPACK_ASSIGN_OR_RETURN(Bytes state, engine_.export_state(tokens));
    states.push_back(std::move(state));
  }
  return states;
}

Result<std::vector<BlendChunk>> BlendBench::chunks_of(const std::vector<Bytes>& states) {
  std::vector<BlendChunk> chunks;
  for (const Bytes& state : states) {
    KVPACK_ASSIGN_OR_RETURN(KvFile file, read_kv_file(state, {&facts_, true}));
    chunks.push_back({fmt::format("piece {}", chunks.size()), std::move(file.tensor), std::move(file.tokens)});
  }
  return chunks;
}

// The engine's cache ends before the query's last token.
Result<LogitMatrix> BlendBench::judge(const BlendCase& one) {
  std::vector<int32_t> forced = {one.query.back()};
  forced.insert(forced.end(), one.judged.begin(), one.judged.end() - 1);
  return engine_.evaluate(forced);
}

Result<LogitMatrix> BlendBench::judge_prefill(const BlendCase& one) {
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& piece : one.pieces) all.insert(all.end(), piece.begin(), piece.end());
  all.insert(all.end(), one.query.begin(), one.query.end() - 1);
  const auto start = std::chrono::steady_clock::now();
  KVPACK_RETURN_IF_ERROR(engine_.prefill(all));
  prefill_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return judge(one);
}

Result<LogitMatrix> BlendBench::judge(const BlendCase& one, const JoinedContext& context) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes state, write_llama_state(context.tensor(), context.tokens(), {}, {}));
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState restored, engine_.import_state(state));
  return judge(one);
}

}  // namespace kvpack::engine
