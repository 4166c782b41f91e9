// SPDX-License-Identifier: Apache-2.0
// kvpack_blend_report: contexts of several passages, each passage's cache computed on its own, put together in several
// ways; what a real engine predicts from them, beside what it predicts from a cache of the whole.
//
// Per method: KL and delta-NLL per token, answers of which every token is the likeliest, and what it costs: tokens
// times layers, and seconds, as shares of computing everything. Ends with 1 if the better of hkvd and query at 15 %
// recovers less than --goal of what plain concatenation loses.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "tests/engine/blend_bench.h"

namespace kvpack::engine {
namespace {

struct Arguments {
  BlendBenchArguments bench;
  std::vector<double> ratios = {0.05, 0.15, 0.30};
  double goal = 0;
  uint32_t query_layers = 0;
};

struct Method {
  std::string name;
  BlendOptions blend;
  bool rotate = true;
  BlendTally books{};
  BlendTally numbers{};
  double token_layers = 0;  // sums over cases
  double all_token_layers = 0;
  double seconds = 0;

  double kl() const { return (books.kl + numbers.kl) / std::max(1u, books.cases + numbers.cases); }
  double delta_nll() const { return (books.delta_nll + numbers.delta_nll) / std::max(1u, books.cases + numbers.cases); }
};

BlendTally& tally_of(Method& method, const BlendCase& one) { return one.asks_number ? method.numbers : method.books; }

Status run_method(BlendBench& bench, const BlendCase& one, const std::vector<BlendChunk>& chunks, uint32_t shared,
                  const LogitMatrix& reference, Method& method) {
  KVPACK_ASSIGN_OR_RETURN(JoinedContext joined,
                          JoinedContext::join(chunks, blended_query(one), bench.facts(), {shared, method.rotate}));
  KVPACK_ASSIGN_OR_RETURN(const BlendReport report, blend(joined, bench.weights(), bench.attention(), method.blend));
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, bench.judge(one, joined));
  KVPACK_ASSIGN_OR_RETURN(const PredictionDistance distance, compare_predictions(reference, logits, one.judged));
  tally_of(method, one).add(one, logits, distance);
  method.token_layers += static_cast<double>(report.token_layers);
  method.all_token_layers += static_cast<double>(report.all_token_layers);
  method.seconds += report.seconds;
  return {};
}

// All methods on one case.
Status run_case(BlendBench& bench, const BlendCase& one, uint32_t shared, std::vector<Method>& methods) {
  KVPACK_ASSIGN_OR_RETURN(const std::vector<Bytes> states, bench.cache_pieces(one));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<BlendChunk> chunks, bench.chunks_of(states));
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix reference, bench.judge_prefill(one));
  tally_of(methods.front(), one).add(one, reference, {});  // the engine's own cache
  for (size_t m = 1; m < methods.size(); ++m) {
    KVPACK_RETURN_IF_ERROR(run_method(bench, one, chunks, shared, reference, methods[m]));
  }
  return {};
}

std::vector<Method> all_methods(const Arguments& arguments) {
  const auto method = [&](std::string name, BlendSelect select, double ratio, bool rotate = true) {
    Method made{std::move(name), {}, rotate};
    made.blend.select = select;
    made.blend.ratio = ratio;
    made.blend.threads = static_cast<unsigned>(arguments.bench.threads);
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
    const auto mean = [](double sum, const BlendTally& tally) { return sum / std::max(1u, tally.cases); };
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
  KVPACK_ASSIGN_OR_RETURN(const auto bench, BlendBench::open(arguments.bench));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<BlendCase> cases, bench->make_cases());
  std::vector<Method> methods = all_methods(arguments);
  for (size_t i = 0; i < cases.size(); ++i) {
    KVPACK_RETURN_IF_ERROR(run_case(*bench, cases[i], arguments.bench.shared, methods));
    fmt::print(stderr, "{} of {} contexts\n", i + 1, cases.size());
  }
  const uint32_t tokens = arguments.bench.pieces * arguments.bench.piece_tokens;
  fmt::print("{} contexts of {} tokens in {} pieces\n\n", cases.size(), tokens, arguments.bench.pieces);
  print_table(methods, bench->prefill_seconds());
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
  declare_blend_bench(app, arguments.bench);
  app.add_option("--ratio", arguments.ratios, "shares to recompute")->capture_default_str();
  app.add_option("--query-layers", arguments.query_layers, "query: layers that it looks in (0: half)")
      ->capture_default_str();
  app.add_option("--goal", arguments.goal, "share of the loss to recover, 0 to 1")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto met = measure(arguments);
  if (met.ok()) return *met ? 0 : 1;
  fmt::print(stderr, "kvpack_blend_report: {}\n", met.error().message);
  return 2;
}
