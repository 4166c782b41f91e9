// SPDX-License-Identifier: Apache-2.0
// kvpack_engine_report: what a real engine makes of restored caches. It fills a cache with a text's first tokens,
// saves it, sends the file through the kvpack program at every quality, lets the engine go on from each restored file,
// and compares its predictions of the text's next tokens with those from the engine's own saved file. The engine runs
// the model with f32 weights (widen_model); kvpack gets the model as it is. Beside them:
// the f16 file as it is, llama.cpp's q8_0 and q4_0 caches, and zstd -19. Fails when a quality breaks its bounds
// (quality_bounds.h).
#include <fmt/format.h>
#include <zstd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/plain_state.h"
#include "tests/engine/quality_bounds.h"
#include "tests/engine/report_table.h"
#include "tests/engine/run_program.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

constexpr uint32_t kGreedyTokens = 64;

struct Arguments {
  std::string llama;
  std::string model;
  std::string text;
  std::string kvpack;
  std::string profile;  // "": none
  uint32_t prefix = 700;
  uint32_t continuation = 256;
  int threads = 1;
  ReportStyle style = ReportStyle::kText;
};

// How the engine goes on from one cache.
struct Behaviour {
  RestoredState restored;
  LogitMatrix logits;
  std::vector<int32_t> greedy;
};

// The state file under test and everything that is measured against it.
struct Experiment {
  Arguments arguments;
  LlamaEngine engine;
  const ScratchFolder& scratch;
  std::vector<int32_t> prefix;
  std::vector<int32_t> forced;   // fed one after the other behind the prefix ...
  std::vector<int32_t> targets;  // ... and what should come after each
  std::string state_path;
  Bytes state;
  std::vector<StatePlane> planes;
  Behaviour warm;
  std::vector<ReportRow> rows;
  std::vector<std::string> violations;
};

Result<Behaviour> behave(Experiment& experiment, const std::string& state_path) {
  Behaviour behaviour;
  LlamaEngine& engine = experiment.engine;
  KVPACK_ASSIGN_OR_RETURN(behaviour.restored, engine.load_state(state_path));
  KVPACK_ASSIGN_OR_RETURN(behaviour.logits, engine.evaluate(experiment.forced));
  KVPACK_ASSIGN_OR_RETURN(behaviour.restored, engine.load_state(state_path));
  KVPACK_ASSIGN_OR_RETURN(behaviour.greedy, engine.continue_greedily(experiment.forced[0], kGreedyTokens));
  return behaviour;
}

Status take_tokens(Experiment* experiment) {
  const Arguments& arguments = experiment->arguments;
  KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_file(arguments.text));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, experiment->engine.tokenize(as_text(text)));
  const size_t needed = size_t{arguments.prefix} + arguments.continuation + 1;
  if (tokens.size() < needed) {
    return invalid_argument(fmt::format("{}: {} tokens, and {} are needed", arguments.text, tokens.size(), needed));
  }
  const auto split = tokens.begin() + arguments.prefix;
  experiment->prefix.assign(tokens.begin(), split);
  experiment->forced.assign(split, split + arguments.continuation);
  experiment->targets.assign(split + 1, split + 1 + arguments.continuation);
  return {};
}

Status fill_and_save(Experiment* experiment) {
  LlamaEngine& engine = experiment->engine;
  KVPACK_RETURN_IF_ERROR(engine.prefill(experiment->prefix));
  KVPACK_RETURN_IF_ERROR(engine.save_state(experiment->state_path, experiment->prefix));
  KVPACK_ASSIGN_OR_RETURN(experiment->state, read_file(experiment->state_path));
  KVPACK_ASSIGN_OR_RETURN(experiment->planes, find_planes(experiment->state));
  KVPACK_ASSIGN_OR_RETURN(experiment->warm, behave(*experiment, experiment->state_path));
  return {};
}

// Restores `path`, and adds its row. `bytes` is what would be kept instead of the state file.
Status measure(Experiment* experiment, const std::string& name, const std::string& path, uint64_t bytes) {
  ReportRow row;
  row.name = name;
  row.bytes = bytes;
  row.ratio = static_cast<double>(experiment->state.size()) / static_cast<double>(bytes);
  row.bits_per_value = 8 * static_cast<double>(bytes) / static_cast<double>(count_values(experiment->planes));
  KVPACK_ASSIGN_OR_RETURN(const Bytes restored, read_file(path));
  if (restored.size() != experiment->state.size()) {
    return corrupt(fmt::format("{}: {} bytes restored of {}", name, restored.size(), experiment->state.size()));
  }
  row.relative_error = relative_l2_error(experiment->planes, experiment->state, restored);
  KVPACK_ASSIGN_OR_RETURN(const Behaviour behaviour, behave(*experiment, path));
  KVPACK_ASSIGN_OR_RETURN(row.distance,
                          compare_predictions(experiment->warm.logits, behaviour.logits, experiment->targets));
  row.cached_tokens = behaviour.restored.cached_tokens;
  const auto& expected = experiment->warm.greedy;
  row.greedy_equal = static_cast<uint32_t>(
      std::mismatch(expected.begin(), expected.end(), behaviour.greedy.begin()).first - expected.begin());
  if (row.cached_tokens != experiment->prefix.size() || behaviour.restored.payload != experiment->prefix) {
    experiment->violations.push_back(fmt::format("{}: the engine reports {} cached tokens of {}, and {} token ids",
                                                 name, row.cached_tokens, experiment->prefix.size(),
                                                 behaviour.restored.payload == experiment->prefix ? "the" : "other"));
  }
  experiment->rows.push_back(row);
  return {};
}

void check_bounds(Experiment* experiment, const QualityBounds& bounds, bool identical) {
  const ReportRow& row = experiment->rows.back();
  const auto violated = [&](std::string what) { experiment->violations.push_back(row.name + ": " + std::move(what)); };
  if (bounds.byte_identical && !identical) violated("the restored file differs from the original");
  if (bounds.byte_identical && row.greedy_equal != kGreedyTokens) {
    violated(fmt::format("the greedy continuation differs at token {}", row.greedy_equal));
  }
  // Written so that a NaN is a violation too.
  if (!(row.distance.kl <= bounds.kl)) violated(fmt::format("KL {:.6f}, at most {}", row.distance.kl, bounds.kl));
  if (!(std::abs(row.distance.delta_nll) <= bounds.delta_nll)) {
    violated(fmt::format("delta-NLL {:+.6f}, at most {} either way", row.distance.delta_nll, bounds.delta_nll));
  }
}

// `profile`: "" for none.
Status measure_quality(Experiment* experiment, const QualityBounds& bounds, const std::string& profile) {
  const std::string quality(bounds.quality);
  const std::string name = profile.empty() ? quality : quality + ", profile";
  const std::string archive = experiment->scratch.file(name + ".kvp");
  const std::string back = experiment->scratch.file(name + ".bin");
  const std::string& kvpack = experiment->arguments.kvpack;
  std::vector<std::string> encode = {kvpack,      "encode", experiment->state_path, "--model", experiment->arguments.model,
                                     "--quality", quality,  "-o",                   archive};
  std::vector<std::string> decode = {kvpack, "decode", archive, "-o", back};
  if (profile.empty()) {
    encode.emplace_back("--no-profile");
  } else {
    for (auto* command : {&encode, &decode}) command->insert(command->end(), {"--profile", profile});
  }
  KVPACK_ASSIGN_OR_RETURN(const double encode_ms, run_program(encode));
  KVPACK_ASSIGN_OR_RETURN(const double decode_ms, run_program(decode));
  KVPACK_ASSIGN_OR_RETURN(const Bytes encoded, read_file(archive));
  KVPACK_ASSIGN_OR_RETURN(const Bytes restored, read_file(back));
  KVPACK_RETURN_IF_ERROR(measure(experiment, name, back, encoded.size()));
  experiment->rows.back().encode_ms = encode_ms;
  experiment->rows.back().decode_ms = decode_ms;
  check_bounds(experiment, bounds, restored == experiment->state);
  return {};
}

Status measure_quantized_cache(Experiment* experiment, DType type) {
  const std::string name(dtype_name(type));
  const std::string path = experiment->scratch.file(name + ".bin");
  const QuantizedState quantized =
      through_quantized_cache(experiment->planes, experiment->state, type, experiment->engine.key_head_dim());
  KVPACK_RETURN_IF_ERROR(write_file(path, quantized.restored));
  return measure(experiment, name, path, quantized.file_bytes);
}

Status measure_zstd(Experiment* experiment) {
  Bytes compressed(ZSTD_compressBound(experiment->state.size()));
  const size_t bytes =
      ZSTD_compress(compressed.data(), compressed.size(), experiment->state.data(), experiment->state.size(), 19);
  if (ZSTD_isError(bytes) != 0) return io_error(fmt::format("zstd: {}", ZSTD_getErrorName(bytes)));
  return measure(experiment, "zstd -19", experiment->state_path, bytes);  // what zstd gives back is the file
}

Status measure_all(Experiment* experiment) {
  for (const QualityBounds& bounds : kQualityBounds) {
    KVPACK_RETURN_IF_ERROR(measure_quality(experiment, bounds, ""));
    if (!experiment->arguments.profile.empty() && !bounds.byte_identical) {
      KVPACK_RETURN_IF_ERROR(measure_quality(experiment, bounds, experiment->arguments.profile));
    }
  }
  KVPACK_RETURN_IF_ERROR(measure(experiment, "f16", experiment->state_path, experiment->state.size()));
  KVPACK_RETURN_IF_ERROR(measure_quantized_cache(experiment, DType::kQ8_0));
  KVPACK_RETURN_IF_ERROR(measure_quantized_cache(experiment, DType::kQ4_0));
  return measure_zstd(experiment);
}

void print(const Experiment& experiment) {
  const Arguments& arguments = experiment.arguments;
  ReportContext context;
  context.model = std::filesystem::path(arguments.model).filename();
  context.text = std::filesystem::path(arguments.text).filename();
  context.prefix_tokens = arguments.prefix;
  context.continuation_tokens = arguments.continuation;
  context.greedy_tokens = kGreedyTokens;
  context.state_bytes = experiment.state.size();
  context.values = count_values(experiment.planes);
  context.reference_nll = experiment.rows.front().distance.reference_nll;
  fmt::print("{}", print_report(context, experiment.rows, arguments.style));
  for (const std::string& violation : experiment.violations) fmt::print(stderr, "violated: {}\n", violation);
}

// Whether every bound holds.
Result<bool> report(const Arguments& arguments) {
  const ScratchFolder scratch;
  if (!scratch.ok()) return io_error("no temporary folder");
  EngineOptions options;
  options.threads = arguments.threads;
  options.n_ctx = arguments.prefix + std::max(arguments.continuation, kGreedyTokens) + 1;
  const std::string wide_model = scratch.file("model-f32.gguf");
  KVPACK_RETURN_IF_ERROR(widen_model(arguments.llama + "/lib", arguments.model, wide_model));
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(arguments.llama + "/lib", wide_model, options));
  Experiment experiment{.arguments = arguments,
                        .engine = std::move(engine),
                        .scratch = scratch,
                        .prefix = {},
                        .forced = {},
                        .targets = {},
                        .state_path = scratch.file("state.bin"),
                        .state = {},
                        .planes = {},
                        .warm = {},
                        .rows = {},
                        .violations = {}};
  KVPACK_RETURN_IF_ERROR(take_tokens(&experiment));
  KVPACK_RETURN_IF_ERROR(fill_and_save(&experiment));
  KVPACK_RETURN_IF_ERROR(measure_all(&experiment));
  print(experiment);
  return experiment.violations.empty();
}

}  // namespace
}  // namespace kvpack::engine

int main(int argc, char** argv) {
  using namespace kvpack::engine;
  Arguments arguments;
  bool json = false, markdown = false;
  CLI::App app{"What a real llama.cpp makes of caches that went through kvpack", "kvpack_engine_report"};
  app.add_option("--llama", arguments.llama, "folder with llama.cpp's lib/ (see fetch_llama.sh)")->required();
  app.add_option("--model", arguments.model, "GGUF")->required();
  app.add_option("--text", arguments.text, "text whose first tokens fill the cache")->required();
  app.add_option("--kvpack", arguments.kvpack, "the kvpack program")->required();
  app.add_option("--profile", arguments.profile, "the model's profile: every lossy quality with and without it");
  app.add_option("--prefix", arguments.prefix, "tokens in the cache")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1u << 20));
  app.add_option("--continuation", arguments.continuation, "tokens predicted")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1u << 16));
  app.add_option("--threads", arguments.threads)->capture_default_str()->check(CLI::Range(1, 256));
  app.add_flag("--json", json)->excludes(app.add_flag("--markdown", markdown));
  CLI11_PARSE(app, argc, argv);
  arguments.style = json ? ReportStyle::kJson : markdown ? ReportStyle::kMarkdown : ReportStyle::kText;

  const kvpack::Result<bool> within_bounds = report(arguments);
  if (!within_bounds.ok()) {
    fmt::print(stderr, "kvpack_engine_report: {}\n", within_bounds.error().message);
    return 2;
  }
  return *within_bounds ? 0 : 1;
}
