// SPDX-License-Identifier: Apache-2.0
// kvpack_blend_report: contexts of several passages, each passage's cache computed on its own, put together in several
// ways; what a real engine predicts from them, beside what it predicts from a cache of the whole. Two kinds of context:
//
//   books    consecutive pieces of a text; the query is what follows, judged is how the text goes on after that
//   numbers  hidden_numbers.h cut in pieces, a sentence now and then in two; a question follows, judged is the answer
//
// Per method: KL and delta-NLL per token, answers of which every token is the likeliest, and what it costs: tokens
// times layers, and seconds, as shares of computing everything. Ends with 1 if the better of hkvd and query at 15 %
// recovers less than --goal of what plain concatenation loses.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>

#include "formats/byte_io.h"
#include "formats/kv_file.h"
#include "net/engine/blend.h"
#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/hidden_numbers.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

struct Arguments {
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
  std::vector<double> ratios = {0.05, 0.15, 0.30};
  uint32_t shared = 0;  // first tokens of the context, in front of every piece
  double goal = 0;
  int threads = 2;
  uint32_t query_layers = 0;
};

// What is put together and asked.
struct Case {
  std::vector<std::vector<int32_t>> pieces;  // without the shared tokens, but for the first
  std::vector<int32_t> query;
  std::vector<int32_t> judged;  // what should follow
  bool asks_number = false;
};

struct Tally {
  double kl = 0;
  double delta_nll = 0;
  uint32_t cases = 0;
  uint32_t found = 0;
  uint32_t asked = 0;
};

struct Method {
  std::string name;
  BlendOptions blend;
  bool rotate = true;
  Tally books{};
  Tally numbers{};
  double token_layers = 0;  // sums over cases
  double all_token_layers = 0;
  double seconds = 0;

  double kl() const { return (books.kl + numbers.kl) / std::max(1u, books.cases + numbers.cases); }
  double delta_nll() const { return (books.delta_nll + numbers.delta_nll) / std::max(1u, books.cases + numbers.cases); }
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool all_likeliest(const LogitMatrix& logits, const std::vector<int32_t>& answer) {
  for (size_t i = 0; i < answer.size(); ++i) {
    const float* row = logits.row(i);
    if (std::max_element(row, row + logits.vocabulary) - row != answer[i]) return false;
  }
  return true;
}

class Report {
 public:
  static Result<std::unique_ptr<Report>> open(const Arguments& arguments) {
    EngineOptions options;
    options.threads = arguments.threads;
    options.n_ctx = arguments.pieces * arguments.piece_tokens + arguments.query + arguments.continuation + 128;
    KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(arguments.llama + "/lib", arguments.model, options));
    KVPACK_ASSIGN_OR_RETURN(ModelFacts facts, read_model_facts(arguments.model));
    KVPACK_ASSIGN_OR_RETURN(auto source, open_file_source(arguments.model));
    auto report =
        std::unique_ptr<Report>(new Report(std::move(engine), std::move(facts), std::move(source), arguments));
    const auto threads = static_cast<unsigned>(arguments.threads);
    KVPACK_ASSIGN_OR_RETURN(report->weights_, ModelWeights::open(*report->source_, threads));
    KVPACK_ASSIGN_OR_RETURN(report->attention_, read_attention_layers(*report->weights_, report->facts_, threads));
    return report;
  }

  Result<std::vector<Case>> make_cases();
  // All methods on one case.
  Status run(const Case& one, std::vector<Method>& methods);
  double prefill_seconds() const { return prefill_seconds_; }

 private:
  Report(LlamaEngine engine, ModelFacts facts, std::unique_ptr<ByteSource> source, const Arguments& arguments)
      : engine_(std::move(engine)), facts_(std::move(facts)), source_(std::move(source)), arguments_(arguments) {}
  Case cut(const std::vector<int32_t>& tokens) const;
  Result<std::vector<BlendChunk>> cache_pieces(const Case& one);
  Result<LogitMatrix> judge(const Case& one);
  Status run_method(const Case& one, const std::vector<BlendChunk>& chunks, const LogitMatrix& reference,
                    Method& method);

  LlamaEngine engine_;
  ModelFacts facts_;
  std::unique_ptr<ByteSource> source_;
  const Arguments& arguments_;
  std::optional<ModelWeights> weights_;
  std::optional<ModelAttention> attention_;
  ScratchFolder scratch_;
  double prefill_seconds_ = 0;  // of the engine, contexts and queries
};

// The pieces of a context.
Case Report::cut(const std::vector<int32_t>& tokens) const {
  Case made;
  for (uint32_t p = 0; p < arguments_.pieces; ++p) {
    const auto from = tokens.begin() + p * arguments_.piece_tokens;
    made.pieces.emplace_back(from, from + arguments_.piece_tokens);
  }
  return made;
}

Result<std::vector<Case>> Report::make_cases() {
  std::vector<Case> cases;
  const uint32_t context = arguments_.pieces * arguments_.piece_tokens;
  const uint32_t stride = context + arguments_.query + arguments_.continuation;
  for (const std::string& path : arguments_.texts) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_file(path));
    KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine_.tokenize(as_text(text)));
    for (uint32_t i = 0; i < arguments_.per_text && size_t{i + 1} * stride <= tokens.size(); ++i) {
      const std::vector<int32_t> part(tokens.begin() + i * stride, tokens.begin() + (i + 1) * stride);
      Case made = cut(part);
      made.query.assign(part.begin() + context, part.begin() + context + arguments_.query);
      made.judged.assign(part.begin() + context + arguments_.query, part.end());
      cases.push_back(std::move(made));
    }
  }
  for (uint32_t seed = 0; seed < arguments_.numbers; ++seed) {
    KVPACK_ASSIGN_OR_RETURN(const NumbersText text, make_numbers_text(engine_, context, seed));
    for (uint32_t q = 0; q < arguments_.questions; ++q) {
      const HiddenNumber& number = text.numbers[(seed + q * 4 + 1) % text.numbers.size()];
      Case made = cut(text.prefix);
      made.query = number.question;
      made.judged = number.answer;
      made.asks_number = true;
      cases.push_back(std::move(made));
    }
  }
  return cases;
}

Result<std::vector<BlendChunk>> Report::cache_pieces(const Case& one) {
  std::vector<BlendChunk> chunks;
  for (const std::vector<int32_t>& piece : one.pieces) {
    std::vector<int32_t> tokens;
    if (!chunks.empty()) tokens.assign(one.pieces[0].begin(), one.pieces[0].begin() + arguments_.shared);
    tokens.insert(tokens.end(), piece.begin(), piece.end());
    KVPACK_RETURN_IF_ERROR(engine_.prefill(tokens));
    const std::string path = scratch_.file("piece");
    KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t written, engine_.save_state(path, tokens));
    KVPACK_ASSIGN_OR_RETURN(Bytes bytes, read_file(path));
    KVPACK_ASSIGN_OR_RETURN(KvFile file, read_kv_file(std::move(bytes), {&facts_, true}));
    chunks.push_back({fmt::format("piece {}", chunks.size()), std::move(file.tensor), std::move(file.tokens)});
  }
  return chunks;
}

// What the engine predicts of the judged tokens; its cache ends before the query's last token.
Result<LogitMatrix> Report::judge(const Case& one) {
  std::vector<int32_t> forced = {one.query.back()};
  forced.insert(forced.end(), one.judged.begin(), one.judged.end() - 1);
  return engine_.evaluate(forced);
}

Status Report::run_method(const Case& one, const std::vector<BlendChunk>& chunks, const LogitMatrix& reference,
                          Method& method) {
  const std::vector<int32_t> query(one.query.begin(), one.query.end() - 1);
  KVPACK_ASSIGN_OR_RETURN(JoinedContext joined,
                          JoinedContext::join(chunks, query, facts_, {arguments_.shared, method.rotate}));
  KVPACK_ASSIGN_OR_RETURN(const BlendReport report, blend(joined, *weights_, *attention_, method.blend));
  KVPACK_ASSIGN_OR_RETURN(const Bytes state, write_llama_state(joined.tensor(), joined.tokens(), {}, {}));
  const std::string path = scratch_.file("joined");
  KVPACK_RETURN_IF_ERROR(write_file(path, state));
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState restored, engine_.load_state(path));
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, judge(one));
  KVPACK_ASSIGN_OR_RETURN(const PredictionDistance distance, compare_predictions(reference, logits, one.judged));
  Tally& tally = one.asks_number ? method.numbers : method.books;
  tally.kl += distance.kl;
  tally.delta_nll += distance.delta_nll;
  ++tally.cases;
  if (one.asks_number) {
    ++tally.asked;
    tally.found += all_likeliest(logits, one.judged);
  }
  method.token_layers += static_cast<double>(report.token_layers);
  method.all_token_layers += static_cast<double>(report.all_token_layers);
  method.seconds += report.seconds;
  return {};
}

Status Report::run(const Case& one, std::vector<Method>& methods) {
  KVPACK_ASSIGN_OR_RETURN(const std::vector<BlendChunk> chunks, cache_pieces(one));
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& piece : one.pieces) all.insert(all.end(), piece.begin(), piece.end());
  all.insert(all.end(), one.query.begin(), one.query.end() - 1);
  const auto start = std::chrono::steady_clock::now();
  KVPACK_RETURN_IF_ERROR(engine_.prefill(all));
  prefill_seconds_ += seconds_since(start);
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix reference, judge(one));
  Method& warm = methods.front();  // the engine's own cache
  Tally& tally = one.asks_number ? warm.numbers : warm.books;
  ++tally.cases;
  if (one.asks_number) {
    ++tally.asked;
    tally.found += all_likeliest(reference, one.judged);
  }
  for (size_t m = 1; m < methods.size(); ++m) KVPACK_RETURN_IF_ERROR(run_method(one, chunks, reference, methods[m]));
  return {};
}

std::vector<Method> all_methods(const Arguments& arguments) {
  const auto method = [&](std::string name, BlendSelect select, double ratio, bool rotate = true) {
    Method made{std::move(name), {}, rotate};
    made.blend.select = select;
    made.blend.ratio = ratio;
    made.blend.threads = static_cast<unsigned>(arguments.threads);
    made.blend.query_layers = arguments.query_layers;
    return made;
  };
  std::vector<Method> methods = {method("the engine's own cache", BlendSelect::kEpic, 1),
                                 method("full recompute", BlendSelect::kEpic, 1),
                                 method("plain concatenation", BlendSelect::kEpic, 0, false),
                                 method("positions corrected", BlendSelect::kEpic, 0)};
  for (const BlendSelect select : {BlendSelect::kEpic, BlendSelect::kHkvd, BlendSelect::kQuery}) {
    for (const double ratio : arguments.ratios) {
      methods.push_back(method(fmt::format("{} {:.0f} %", blend_select_name(select), 100 * ratio), select, ratio));
    }
  }
  return methods;
}

// Share of what `from` loses that `method` does not, by KL.
double recovered(const Method& method, const Method& from) { return from.kl() > 0 ? 1 - method.kl() / from.kl() : 0; }

void print_table(const std::vector<Method>& methods, double prefill_seconds) {
  const Method& full = methods[1];
  fmt::print(
      "| method | KL books | KL numbers | delta-NLL books | delta-NLL numbers | found | recovered of plain | of "
      "positions corrected | work | time of full recompute | of the engine's prefill |\n");
  fmt::print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
  for (size_t m = 0; m < methods.size(); ++m) {
    const Method& method = methods[m];
    const auto mean = [](double sum, const Tally& tally) { return sum / std::max(1u, tally.cases); };
    const auto share = [](double part, double of) { return fmt::format("{:.1f} %", of > 0 ? 100 * part / of : 0.0); };
    fmt::print("| {} | {:.4f} | {:.4f} | {:+.4f} | {:+.4f} | {}/{} |", method.name, mean(method.books.kl, method.books),
               mean(method.numbers.kl, method.numbers), mean(method.books.delta_nll, method.books),
               mean(method.numbers.delta_nll, method.numbers), method.numbers.found, method.numbers.asked);
    if (m == 0) {
      fmt::print(" | | | | |\n");
      continue;
    }
    fmt::print(" {} | {} | {} | {} | {} |\n", share(recovered(method, methods[2]), 1),
               share(recovered(method, methods[3]), 1), share(method.token_layers, method.all_token_layers),
               share(method.seconds, full.seconds), share(method.seconds, prefill_seconds));
  }
  std::fflush(stdout);
}

double best_at_15(const std::vector<Method>& methods) {
  double best = 0;
  for (const Method& method : methods) {
    if (method.name == "hkvd 15 %" || method.name == "query 15 %") best = std::max(best, recovered(method, methods[2]));
  }
  return best;
}

Result<bool> measure(const Arguments& arguments) {
  KVPACK_ASSIGN_OR_RETURN(const auto report, Report::open(arguments));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<Case> cases, report->make_cases());
  std::vector<Method> methods = all_methods(arguments);
  for (size_t i = 0; i < cases.size(); ++i) {
    KVPACK_RETURN_IF_ERROR(report->run(cases[i], methods));
    fmt::print(stderr, "{} of {} contexts\n", i + 1, cases.size());
  }
  const uint32_t tokens = arguments.pieces * arguments.piece_tokens;
  fmt::print("{} contexts of {} tokens in {} pieces\n\n", cases.size(), tokens, arguments.pieces);
  print_table(methods, report->prefill_seconds());
  const double best = best_at_15(methods);
  fmt::print("\nThe better of hkvd and query at 15 % recovers {:.1f} % of what plain concatenation loses (KL).\n",
             100 * best);
  return best >= arguments.goal;
}

}  // namespace
}  // namespace kvpack::engine

int main(int argc, char** argv) {
  using namespace kvpack::engine;
  Arguments arguments;
  CLI::App app{"Contexts put together from passages that were cached on their own", "kvpack_blend_report"};
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
  app.add_option("--ratio", arguments.ratios, "shares to recompute")->capture_default_str();
  app.add_option("--query-layers", arguments.query_layers, "query: layers that it looks in (0: half)")
      ->capture_default_str();
  app.add_option("--goal", arguments.goal, "share of the loss to recover, 0 to 1")->capture_default_str();
  app.add_option("--threads", arguments.threads)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto met = measure(arguments);
  if (met.ok()) return *met ? 0 : 1;
  fmt::print(stderr, "kvpack_blend_report: {}\n", met.error().message);
  return 2;
}
