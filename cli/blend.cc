// SPDX-License-Identifier: Apache-2.0
#include "cli/blend.h"

#include <fmt/format.h>

#include "cli/blend_engine.h"
#include "cli/blend_inputs.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/load_check.h"
#include "cli/measured_profile.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/printable.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "net/engine/blend.h"
#include "net/engine/engine_blend.h"
#include "net/engine/llama_server.h"

namespace kvpack::cli {
namespace {

struct BlendSummary {
  BlendReport report;
  uint32_t chunks = 0;
  uint32_t context_tokens = 0;
  uint32_t query_tokens = 0;
  uint32_t shared_tokens = 0;
  double load_seconds = 0;
  double refine_seconds = 0;
  uint64_t bytes_read = 0;  // of archives
  uint64_t archive_bytes = 0;
  uint32_t archive_chunks = 0;  // with levels above the base
  uint32_t refined_chunks = 0;
  uint64_t output_bytes = 0;
};

Result<std::unique_ptr<OutputFile>> output_of(const BlendArguments& arguments, Console& console) {
  if (arguments.output.empty() && !arguments.engine.given()) {
    return with_hint(invalid_argument("where to?"), "give -o FILE, or --engine URL with --slot-save-path");
  }
  if (arguments.output.empty()) return std::unique_ptr<OutputFile>();
  std::vector<std::string> inputs = arguments.inputs;
  inputs.push_back(arguments.model);
  KVPACK_ASSIGN_OR_RETURN(auto output, OutputFile::prepare(arguments.output, arguments.overwrite, inputs));
  if (output->is_stdout()) console.send_reports_to_stderr();
  return output;
}

// As `kvpack encode` would, without options of its own but the quality.
Status write_archive(const BlendArguments& arguments, Bytes state, const ModelFacts& facts, const Console& console,
                     OutputFile& output) {
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(std::move(state), {&facts, true}));
  EncodeOptions options;
  KVPACK_ASSIGN_OR_RETURN(options.quality, quality_from_name(arguments.quality));
  options.threads = arguments.threads;
  options.creator = "kvpack " KVPACK_VERSION;
  options.spill_folder = output.folder();
  Progress progress(console, "encoding", file.tensor.raw_bytes());
  options.progress = progress.callback();
  std::optional<LoadedProfile> profile;
  std::optional<Profile> measured;
  std::vector<std::string> notes;
  if (options.quality != Quality::kLossless) {
    KVPACK_ASSIGN_OR_RETURN(profile, find_profile_for_model(arguments.profile, arguments.model, facts));
    if (!profile) {
      measured = measure_context(file, &facts, arguments.model,
                                 {kMeasuredQueries, arguments.threads, progress.callback()}, notes);
    }
  }
  if (profile) {
    options.profile = &profile->profile;
    options.profile_hash = profile->hash;
  } else if (measured) {
    options.profile = &*measured;
    options.store_basis = true;
  }
  const auto report = encode_archive(file, &facts, options, output);
  progress.clear();
  if (!report.ok()) return report.error();
  for (const std::string& note : notes) console.note(note);
  return {};
}

// The engine has to show that it goes on from what it took.
Status put_into(LlamaServer& server, const std::vector<int32_t>& tokens, const Bytes& state) {
  KVPACK_ASSIGN_OR_RETURN(const uint32_t taken, server.import_kv(state));
  if (taken != tokens.size()) {
    return network_error(fmt::format("{} took {} of {} tokens", server.name(), taken, tokens.size()));
  }
  KVPACK_ASSIGN_OR_RETURN(const PrefillReport report, server.prefill(tokens));
  if (report.reused_tokens + 1 >= tokens.size()) return {};
  return network_error(fmt::format("{} took the context, but reuses {} of its {} tokens", server.name(),
                                   report.reused_tokens, tokens.size()));
}

Status deliver(const BlendArguments& arguments, const JoinedContext& context, const ModelFacts& facts,
               const Console& console, LlamaServer* server, const LlamaLayout& layout, OutputFile* output,
               uint64_t& output_bytes) {
  KVPACK_ASSIGN_OR_RETURN(Bytes state, write_llama_state(context.tensor(), context.tokens(), {}, layout));
  if (server != nullptr) KVPACK_RETURN_IF_ERROR(put_into(*server, context.tokens(), state));
  if (output == nullptr) return {};
  if (arguments.output.ends_with(".kvp")) {
    KVPACK_RETURN_IF_ERROR(write_archive(arguments, std::move(state), facts, console, *output));
  } else {
    KVPACK_RETURN_IF_ERROR(output->write(state));
  }
  output_bytes = output->bytes_written();
  return output->commit();
}

// Tokens that were aimed at, per second of everything that blending took: what a plan counts with.
double blended_tokens_per_s(const BlendSummary& summary) {
  return per(summary.report.ratio * summary.context_tokens, summary.report.seconds);
}

nlohmann::ordered_json json_of(const BlendArguments& arguments, const BlendSummary& summary) {
  const BlendReport& report = summary.report;
  return {
      {"chunks", summary.chunks},
      {"tokens",
       {{"context", summary.context_tokens},
        {"query", summary.query_tokens},
        {"shared", summary.shared_tokens},
        {"recomputed", report.chosen}}},
      {"select", arguments.select},
      {"recompute_by", arguments.recompute_by},
      {"ratio", report.ratio},
      {"work",
       {{"token_layers", report.token_layers},
        {"of_prefill", per(static_cast<double>(report.token_layers), static_cast<double>(report.all_token_layers))}}},
      {"read",
       {{"bytes", summary.bytes_read},
        {"of", summary.archive_bytes},
        {"archive_chunks", summary.archive_chunks},
        {"refined", summary.refined_chunks}}},
      {"seconds", {{"load", summary.load_seconds}, {"refine", summary.refine_seconds}, {"recompute", report.seconds}}},
      {"recompute_tokens_per_s", per(1, report.seconds_per_token)},
      {"blend_tokens_per_s", blended_tokens_per_s(summary)},
      {"output", {{"path", arguments.output}, {"bytes", summary.output_bytes}}},
      {"engine", arguments.engine.engine}};
}

void print_summary(const BlendArguments& arguments, const BlendSummary& summary, const Console& console) {
  const BlendReport& report = summary.report;
  const std::string to = arguments.output.empty() ? arguments.engine.engine : arguments.output;
  console.print(console.bold(printable(to == "-" ? "standard output" : to)) +
                fmt::format(": {} chunks, {} tokens, and {} of the query\n", summary.chunks,
                            grouped(summary.context_tokens), grouped(summary.query_tokens)));
  std::vector<std::pair<std::string, std::string>> fields;
  if (summary.archive_bytes > 0) {
    std::string read = fmt::format("{} of {}", short_bytes(static_cast<double>(summary.bytes_read)),
                                   short_bytes(static_cast<double>(summary.archive_bytes)));
    if (arguments.refine && summary.archive_chunks > 0) {
      read += fmt::format("; {} of {} archive chunks refined in {}", grouped(summary.refined_chunks),
                          grouped(summary.archive_chunks), short_duration(summary.refine_seconds));
    }
    fields.emplace_back("read", read);
  }
  fields.insert(
      fields.end(),
      {{"recomputed", fmt::format("{} tokens chosen ({}, aimed at {:.1f} %)", grouped(report.chosen), arguments.select,
                                  100 * report.ratio)},
       {"work", fmt::format("{:.1f} % of a prefill", 100 * per(static_cast<double>(report.token_layers),
                                                               static_cast<double>(report.all_token_layers)))},
       {"time", fmt::format("load {}, recompute {} ({:.0f} tokens/s)", short_duration(summary.load_seconds),
                            short_duration(report.seconds), per(1, report.seconds_per_token))}});
  if (report.ratio > 0) {
    fields.emplace_back(
        "in a plan", fmt::format("--blend {:.3g} --blend-tok-s {:.4g}", report.ratio, blended_tokens_per_s(summary)));
  }
  print_fields(console, fields);
}

}  // namespace

void declare_blend(CLI::App& verb, BlendArguments& arguments) {
  verb.add_option("CHUNK", arguments.inputs,
                  "archives (also URLs) or llama.cpp state files, in the order of the context")
      ->type_name(kFileType)
      ->required();
  verb.add_option("-m,--model", arguments.model, "the GGUF that computed them")->type_name(kFileType)->required();
  auto* query = verb.add_option("--query", arguments.query,
                                "what follows the chunks; always computed, last. Special tokens may be spelt out");
  query->type_name("TEXT");
  verb.add_option("--query-tokens", arguments.query_tokens, "the same as token ids: 1,2,3")
      ->type_name("IDS")
      ->excludes(query);
  verb.add_option("-o,--output", arguments.output,
                  "llama.cpp state file to write, or an archive if it ends in .kvp; - for standard output")
      ->type_name(kFileType);
  declare_engine(verb, arguments.engine, "put the context into it");
  add_choice(verb, "--select", arguments.select, {"hkvd", "query", "epic"},
             "which tokens: of highest KV deviation (CacheBlend), attended to by the query, or each chunk's first ones "
             "(default: hkvd)");
  verb.add_option("--ratio", arguments.ratio,
                  "share of the chunks' tokens to compute again, 0 to 1, or auto: as many as take no longer than "
                  "loading did (default: 0.15)")
      ->type_name("R");
  add_choice(verb, "--recompute-by", arguments.recompute_by, {"weights", "libllama"},
             "who computes them: this program, by the model's weights as f32, or llama.cpp in process, in all layers "
             "(default: weights)");
  verb.add_option("--refine", arguments.refine,
                  "read archives at their base level first, then of the further levels this share, 0 to 1: of the "
                  "chunks that what --select looks at says matter most (default: all of everything at once)")
      ->type_name("SHARE");
  verb.add_option("--shared-tokens", arguments.shared_tokens,
                  "every chunk begins with the same N tokens: keep the first chunk's (default: the BOS token, if all "
                  "begin with it)")
      ->type_name("N");
  verb.add_option("--profile", arguments.profile, "profile that archives were encoded with (default: looked for)")
      ->type_name(kFileType);
  add_choice(verb, "--quality", arguments.quality, {"lossless", "high", "medium", "low"},
             "of an archive (default: medium)");
  verb.add_option("-j,--threads", arguments.threads, "threads to use (default: one per core)")->type_name("N");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing file");
  verb.add_flag("--json", arguments.json, "print the summary as JSON");
  declare_net_options(verb, arguments.net);
  verb.footer(
      "Examples:\n"
      "  kvpack blend a.kvp b.kvp c.kvp --query \"Who wrote it?\" -m model.gguf -o ctx.slot\n"
      "  kvpack blend a.kvp b.kvp --query-tokens 3923,6209 --select query --ratio 0.1 -m model.gguf -o ctx.kvp\n"
      "  kvpack blend https://host/a.kvp b.kvp --query \"Why?\" --select query --refine 0.25 -m model.gguf -o "
      "ctx.slot\n"
      "  kvpack blend a.kvp b.kvp --query \"Why?\" -m model.gguf --engine http://localhost:8080 --slot-save-path DIR");
}

Result<int> run_blend(const BlendArguments& arguments, Console& console) {
  BlendOptions options;
  KVPACK_ASSIGN_OR_RETURN(options.select, blend_select_from_name(arguments.select));
  KVPACK_ASSIGN_OR_RETURN(options.ratio, parse_blend_ratio(arguments.ratio));
  options.threads = arguments.threads;
  KVPACK_ASSIGN_OR_RETURN(const auto output, output_of(arguments, console));
  KVPACK_ASSIGN_OR_RETURN(const ModelFacts facts, read_model(arguments.model));
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_file_source(arguments.model));
  KVPACK_ASSIGN_OR_RETURN(const ModelWeights weights, ModelWeights::open(*source, arguments.threads));
  KVPACK_ASSIGN_OR_RETURN(const ModelAttention attention, read_attention_layers(weights, facts, arguments.threads));
  KVPACK_ASSIGN_OR_RETURN(const auto bos_number, weights.bos_token());
  const auto bos = bos_number ? std::optional<int32_t>(static_cast<int32_t>(*bos_number)) : std::nullopt;
  std::unique_ptr<LlamaServer> server;
  if (arguments.engine.given()) {
    KVPACK_ASSIGN_OR_RETURN(server, open_engine(arguments.engine));
  }
  KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> query, read_query(arguments, bos, server.get()));

  Stopwatch watch;
  BlendSummary summary;
  KVPACK_ASSIGN_OR_RETURN(BlendInputs inputs, BlendInputs::read(arguments, facts));
  summary.shared_tokens = arguments.shared_tokens.value_or(shared_bos(inputs.chunks(), bos));
  const JoinOptions join{summary.shared_tokens, true};
  KVPACK_ASSIGN_OR_RETURN(JoinedContext context, JoinedContext::join(inputs.chunks(), query, facts, join));
  summary.load_seconds = options.load_seconds = watch.lap();
  LlamaLayout layout;
  if (server) {
    KVPACK_RETURN_IF_ERROR(check_engine_takes(*server, arguments.model, context.tokens()));
    KVPACK_ASSIGN_OR_RETURN(layout, layout_in_engine(*server, context.tensor(), context.tokens()[0], facts));
  }
  if (facts.context_length > 0 && context.tokens().size() > facts.context_length) {
    console.note(
        fmt::format("{} tokens, and the model was made for {}", context.tokens().size(), facts.context_length));
  }
  {
    Progress progress(console, "recomputing");
    options.progress = progress.callback();
    if (arguments.refine && *arguments.refine < 1) {
      options.refine = [&](std::span<const float> score) -> Status {
        const Stopwatch refining;
        KVPACK_RETURN_IF_ERROR(inputs.refine(facts, join, score, context));
        summary.refine_seconds = refining.seconds();
        return {};
      };
    }
    std::unique_ptr<Engine> by_engine;
    if (arguments.recompute_by == "libllama") {
      KVPACK_ASSIGN_OR_RETURN(by_engine, open_blend_engine(arguments, context));
      options.recompute = [&](std::span<const uint32_t> tokens) { return recompute_in(*by_engine, tokens, context); };
    }
    const auto report = blend(context, weights, attention, options);
    progress.clear();
    if (!report.ok()) return about_file(report.error(), arguments.model);
    summary.report = *report;
  }
  summary.bytes_read = inputs.bytes_read();
  summary.archive_bytes = inputs.archive_bytes();
  summary.archive_chunks = inputs.archive_chunks();
  summary.refined_chunks = inputs.refined_chunks();
  summary.chunks = static_cast<uint32_t>(inputs.chunks().size());
  summary.context_tokens = context.query_begin();
  summary.query_tokens = static_cast<uint32_t>(query.size());
  KVPACK_RETURN_IF_ERROR(
      deliver(arguments, context, facts, console, server.get(), layout, output.get(), summary.output_bytes));
  if (arguments.json) {
    console.print_json(json_of(arguments, summary));
  } else if (!console.quiet()) {
    print_summary(arguments, summary, console);
  }
  return kExitOk;
}

}  // namespace kvpack::cli
