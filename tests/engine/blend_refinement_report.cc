// SPDX-License-Identifier: Apache-2.0
// kvpack_blend_refinement_report: passages that were cached on their own, as archives that are read at the base level
// first; a share of their further levels is chosen in several ways. What a real engine predicts from each, beside
//
//   same blend   what it predicts when the passages were never compressed: what quantizing them costs, and all that
//                choosing levels can mend
//   the whole    what it predicts from its own cache of the whole context
//
// Ways to choose the levels, at equal bytes: by what --select looks at (query, hkvd), by the distortion that they
// remove per byte alone (what fetch does, which is from the front on where chunks are alike), and by lot. With --check
// it ends with 1 unless query is the best of them, against the same blend.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <map>
#include <random>

#include "codec/profile_file.h"
#include "net/engine/blend_refinement.h"
#include "tests/engine/blend_bench.h"

namespace kvpack::engine {
namespace {

struct Arguments {
  BlendBenchArguments bench;
  std::string profile;
  std::string quality = "medium";
  uint32_t chunk_tokens = 32;
  std::vector<double> shares = {0.25, 0.5};
  double ratio = 0.15;
  bool check = false;
};

enum class Rule { kScore, kDistortion, kLot };

struct Distances {
  BlendTally books{};
  BlendTally numbers{};
  BlendTally& of(const BlendCase& one) { return one.asks_number ? numbers : books; }
  double kl() const { return books.kl + numbers.kl; }
};

struct Method {
  std::string name;
  BlendSelect select = BlendSelect::kQuery;
  Rule rule = Rule::kScore;
  double share = 0;  // of the refinements' bytes
  Distances same{};
  Distances whole{};
  uint64_t bytes = 0;  // sum over cases, of blocks
};

// A passage as an archive in memory.
struct Passage {
  explicit Passage(Bytes bytes) : archive(std::move(bytes)), source(archive) {}
  Bytes archive;
  MemorySource source;
  std::optional<ArchiveReader> reader;
  ContextCosts costs;
};

class Report {
 public:
  Report(const Arguments& arguments, BlendBench& bench) : arguments_(arguments), bench_(bench) {}
  Status read_profile_file();
  Status run(const BlendCase& one, std::vector<Method>& methods);

 private:
  Result<std::unique_ptr<Passage>> pack(const Bytes& state) const;
  Result<BlendChunk> decode(const Passage& passage, const ChunkLevels& levels) const;
  std::vector<ChunkLevels> levels_of(const Method& method, const JoinedContext& context,
                                     std::span<const float> score) const;
  Result<LogitMatrix> run_method(const BlendCase& one, Method& method);
  // Without `refine`: of chunks that were never compressed.
  Result<LogitMatrix> blended(const BlendCase& one, const std::vector<BlendChunk>& chunks, BlendSelect select,
                              const std::function<Status(JoinedContext&, std::span<const float>)>& refine);
  JoinOptions join_options() const { return {arguments_.bench.shared, true}; }

  const Arguments& arguments_;
  BlendBench& bench_;
  std::optional<Profile> profile_;
  std::vector<std::unique_ptr<Passage>> passages_;  // of the case in work
};

Status Report::read_profile_file() {
  if (arguments_.profile.empty()) return {};
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, read_file(arguments_.profile));
  KVPACK_ASSIGN_OR_RETURN(profile_, read_profile(bytes, arguments_.profile));
  return {};
}

Result<std::unique_ptr<Passage>> Report::pack(const Bytes& state) const {
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(state, {&bench_.facts(), true}));
  EncodeOptions options;
  KVPACK_ASSIGN_OR_RETURN(options.quality, quality_from_name(arguments_.quality));
  options.chunk_tokens = arguments_.chunk_tokens;
  options.threads = static_cast<unsigned>(arguments_.bench.threads);
  if (profile_) {
    options.profile = &*profile_;
    options.profile_hash = std::string(32, '0');
  }
  MemorySink sink;
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const EncodeReport report,
                          encode_archive(file, &bench_.facts(), options, sink));
  auto passage = std::make_unique<Passage>(sink.take());
  KVPACK_ASSIGN_OR_RETURN(passage->reader, ArchiveReader::open(passage->source));
  passage->costs = context_costs(passage->reader->directory());
  return passage;
}

Result<BlendChunk> Report::decode(const Passage& passage, const ChunkLevels& levels) const {
  DecodeOptions options;
  options.threads = static_cast<unsigned>(arguments_.bench.threads);
  if (profile_) options.profile = &*profile_;
  BlendChunk chunk;
  KVPACK_ASSIGN_OR_RETURN(chunk.tensor, decode_at(*passage.reader, levels, options, &chunk.tokens));
  return chunk;
}

std::vector<ChunkLevels> Report::levels_of(const Method& method, const JoinedContext& context,
                                           std::span<const float> score) const {
  std::vector<ContextCosts> costs;
  std::vector<std::vector<double>> scores;
  std::mt19937 lots(static_cast<uint32_t>(context.tokens().back()));
  for (size_t p = 0; p < passages_.size(); ++p) {
    const Directory& directory = passages_[p]->reader->directory();
    const uint32_t begin = context.chunks()[p], end = context.chunks()[p + 1];
    costs.push_back(passages_[p]->costs);
    scores.push_back(
        chunk_scores(directory.chunks, p == 0 ? 0 : arguments_.bench.shared, score.subspan(begin, end - begin)));
    for (double& of_chunk : scores.back()) {
      if (method.rule == Rule::kDistortion) of_chunk = 1;
      if (method.rule == Rule::kLot) of_chunk = std::exp2(lots() % 1024);  // far apart: chunk by chunk
    }
  }
  return choose_levels(costs, scores, method.share);
}

Result<LogitMatrix> Report::blended(const BlendCase& one, const std::vector<BlendChunk>& chunks, BlendSelect select,
                                    const std::function<Status(JoinedContext&, std::span<const float>)>& refine) {
  KVPACK_ASSIGN_OR_RETURN(JoinedContext joined,
                          JoinedContext::join(chunks, blended_query(one), bench_.facts(), join_options()));
  BlendOptions options;
  options.select = select;
  options.ratio = arguments_.ratio;
  options.threads = static_cast<unsigned>(arguments_.bench.threads);
  if (refine) options.refine = [&](std::span<const float> score) { return refine(joined, score); };
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const BlendReport report,
                          blend(joined, bench_.weights(), bench_.attention(), options));
  return bench_.judge(one, joined);
}

Result<LogitMatrix> Report::run_method(const BlendCase& one, Method& method) {
  std::vector<BlendChunk> chunks;
  for (const auto& passage : passages_) {
    KVPACK_ASSIGN_OR_RETURN(BlendChunk chunk, decode(*passage, ChunkLevels(passage->costs.chunks(), 1)));
    chunks.push_back(std::move(chunk));
  }
  return blended(one, chunks, method.select, [&](JoinedContext& context, std::span<const float> score) -> Status {
    const std::vector<ChunkLevels> levels = levels_of(method, context, score);
    for (size_t p = 0; p < passages_.size(); ++p) {
      method.bytes += bytes_at(passages_[p]->costs, levels[p]);
      KVPACK_ASSIGN_OR_RETURN(const BlendChunk finer, decode(*passages_[p], levels[p]));
      KVPACK_RETURN_IF_ERROR(context.replace(p, finer, bench_.facts(), join_options()));
    }
    return {};
  });
}

Status Report::run(const BlendCase& one, std::vector<Method>& methods) {
  KVPACK_ASSIGN_OR_RETURN(const std::vector<Bytes> states, bench_.cache_pieces(one));
  passages_.clear();
  for (const Bytes& state : states) {
    KVPACK_ASSIGN_OR_RETURN(auto passage, pack(state));
    passages_.push_back(std::move(passage));
  }
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix whole, bench_.judge_prefill(one));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<BlendChunk> chunks, bench_.chunks_of(states));
  std::map<BlendSelect, LogitMatrix> same;
  for (Method& method : methods) {
    if (!same.contains(method.select)) {
      KVPACK_ASSIGN_OR_RETURN(same[method.select], blended(one, chunks, method.select, {}));
    }
    KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, run_method(one, method));
    KVPACK_ASSIGN_OR_RETURN(const PredictionDistance from_same,
                            compare_predictions(same[method.select], logits, one.judged));
    KVPACK_ASSIGN_OR_RETURN(const PredictionDistance from_whole, compare_predictions(whole, logits, one.judged));
    method.same.of(one).add(one, logits, from_same);
    method.whole.of(one).add(one, logits, from_whole);
  }
  return {};
}

std::vector<Method> all_methods(const Arguments& arguments) {
  std::vector<Method> methods = {{"base only", BlendSelect::kQuery, Rule::kScore, 0}};
  for (const double share : arguments.shares) {
    const std::string of = fmt::format("{:.0f} % of the refinements ", 100 * share);
    methods.push_back({of + "by query", BlendSelect::kQuery, Rule::kScore, share});
    methods.push_back({of + "by hkvd", BlendSelect::kHkvd, Rule::kScore, share});
    methods.push_back({of + "by distortion alone", BlendSelect::kQuery, Rule::kDistortion, share});
    methods.push_back({of + "by lot", BlendSelect::kQuery, Rule::kLot, share});
  }
  methods.push_back({"all levels", BlendSelect::kQuery, Rule::kScore, 1});
  return methods;
}

void print_table(const std::vector<Method>& methods, size_t cases) {
  fmt::print(
      "| levels | bytes | KL books, same blend | KL numbers, same blend | KL books, the whole | KL numbers, the whole "
      "| "
      "found |\n");
  fmt::print("|---|---:|---:|---:|---:|---:|---:|\n");
  const auto mean = [](const BlendTally& tally) { return tally.kl / std::max(1u, tally.cases); };
  for (const Method& method : methods) {
    fmt::print("| {} | {:.0f} | {:.4f} | {:.4f} | {:.4f} | {:.4f} | {}/{} |\n", method.name,
               static_cast<double>(method.bytes) / static_cast<double>(cases), mean(method.same.books),
               mean(method.same.numbers), mean(method.whole.books), mean(method.whole.numbers),
               method.whole.numbers.found, method.whole.numbers.asked);
  }
}

// Of the methods with the same share.
bool query_is_best(const std::vector<Method>& methods) {
  for (const Method& query : methods) {
    if (query.select != BlendSelect::kQuery || query.rule != Rule::kScore) continue;
    for (const Method& other : methods) {
      if (other.share == query.share && other.same.kl() < query.same.kl()) return false;
    }
  }
  return true;
}

Result<bool> measure(const Arguments& arguments) {
  KVPACK_ASSIGN_OR_RETURN(const auto bench, BlendBench::open(arguments.bench));
  Report report(arguments, *bench);
  KVPACK_RETURN_IF_ERROR(report.read_profile_file());
  KVPACK_ASSIGN_OR_RETURN(const std::vector<BlendCase> cases, bench->make_cases());
  std::vector<Method> methods = all_methods(arguments);
  for (size_t i = 0; i < cases.size(); ++i) {
    KVPACK_RETURN_IF_ERROR(report.run(cases[i], methods));
    fmt::print(stderr, "{} of {} contexts\n", i + 1, cases.size());
  }
  fmt::print("{} contexts of {} tokens in {} pieces, {}, chunks of {} tokens, {:.0f} % recomputed\n\n", cases.size(),
             arguments.bench.pieces * arguments.bench.piece_tokens, arguments.bench.pieces, arguments.quality,
             arguments.chunk_tokens, 100 * arguments.ratio);
  print_table(methods, cases.size());
  return !arguments.check || query_is_best(methods);
}

}  // namespace
}  // namespace kvpack::engine

int main(int argc, char** argv) {
  using namespace kvpack::engine;
  Arguments arguments;
  CLI::App app{"Which levels of joined passages to fetch", "kvpack_blend_refinement_report"};
  declare_blend_bench(app, arguments.bench);
  app.add_option("--profile", arguments.profile, "of the model; without it archives need none");
  app.add_option("--quality", arguments.quality)->capture_default_str();
  app.add_option("--chunk-tokens", arguments.chunk_tokens, "of the archives")->capture_default_str();
  app.add_option("--share", arguments.shares, "of the further levels' bytes")->capture_default_str();
  app.add_option("--ratio", arguments.ratio, "share of the tokens to recompute")->capture_default_str();
  app.add_flag("--check", arguments.check, "end with 1 unless query is the best way to choose");
  CLI11_PARSE(app, argc, argv);
  const auto done = measure(arguments);
  if (done.ok()) return *done ? 0 : 1;
  fmt::print(stderr, "kvpack_blend_refinement_report: {}\n", done.error().message);
  return 2;
}
