// SPDX-License-Identifier: Apache-2.0
#include "cli/encode.h"

#include <unistd.h>

#include <algorithm>

#include "cli/encode_summary.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"
#include "codec/archive_codec.h"

namespace kvpack::cli {
namespace {

Result<EncodeOptions> encode_options(const EncodeArguments& arguments) {
  EncodeOptions options;
  KVPACK_ASSIGN_OR_RETURN(options.quality, quality_from_name(arguments.quality));
  KVPACK_ASSIGN_OR_RETURN(options.transform, transform_from_name(arguments.transform));
  options.bits_per_value = arguments.bits_per_value;
  options.ratio = arguments.ratio;
  options.max_error = arguments.max_error;
  options.low_rank = arguments.low_rank;
  if (arguments.chunk_tokens > 0) options.chunk_tokens = arguments.chunk_tokens;
  options.hadamard_rotated = !arguments.no_hadamard;
  options.threads = arguments.threads;
  options.creator = "kvpack " KVPACK_VERSION;
  if (!arguments.text.empty()) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_input(arguments.text, kMaxSectionBytes));
    options.text = as_text(text);
  }
  return options;
}

Result<std::optional<LoadedProfile>> profile_for(const EncodeArguments& arguments, const ModelFacts* model) {
  std::optional<LoadedProfile> none;
  if (model == nullptr && !arguments.profile.empty())
    return invalid_argument("--profile needs --model: a profile is used on keys with RoPE undone");
  if (model != nullptr && !arguments.no_profile &&
      (arguments.quality != quality_name(Quality::kLossless) || arguments.tokens.keep_top)) {
    KVPACK_ASSIGN_OR_RETURN(none, find_profile_for_model(arguments.profile, arguments.model, *model));
  }
  if (arguments.embed_profile && !none)
    return invalid_argument("--embed-profile: no profile of this model was given or found");
  return none;
}

Status check_standard_input_used_once(const EncodeArguments& arguments) {
  const int uses = (arguments.input == "-") + (arguments.text == "-");
  if (uses > 1) return invalid_argument("standard input cannot be both the KV file and the text");
  return {};
}

}  // namespace

void declare_encoding(CLI::App& verb, EncodeArguments& arguments) {
  verb.add_option("-o,--output", arguments.output, "archive to write; - for standard output")
      ->type_name(kFileType)
      ->required();
  verb.add_option("-m,--model", arguments.model,
                  "the model: .gguf, config.json or kvpack's model.json; makes archives much smaller")
      ->type_name(kFileType);
  auto* profile = verb.add_option("--profile", arguments.profile,
                                  "profile of the model (default: beside the model, or an installed one)");
  profile->type_name(kFileType);
  verb.add_flag("--no-profile", arguments.no_profile, "use none, even if one is found")->excludes(profile);
  verb.add_flag("--embed-profile", arguments.embed_profile, "carry the profile in the archive");
  verb.add_option("--measure", arguments.measure,
                  "without a profile: take the context's last N tokens through the model's weights, to see what it "
                  "minds (default: 128; 0: do not)")
      ->type_name("N")
      ->check(CLI::Range(0u, kMaxMeasuredQueries).description(""));
  auto* quality = add_choice(verb, "--quality", arguments.quality, {"lossless", "high", "medium", "low"},
                             "how close to the input to stay (default: medium)");
  auto* bits = add_number_above(verb, "--bits", arguments.bits_per_value, 0,
                                "aim at this many bits per value, all bytes counted");
  auto* ratio = add_number_above(verb, "--ratio", arguments.ratio, 0, "aim at this compression ratio");
  auto* error = add_number_above(verb, "--max-error", arguments.max_error, 0, "no value further off than this");
  for (CLI::Option* target : {bits, ratio, error}) {
    for (CLI::Option* other : {quality, bits, ratio, error}) {
      if (other != target) target->excludes(other);
    }
  }
  add_choice(verb, "--transform", arguments.transform, {"auto", "none", "hadamard", "klt"},
             "decorrelating transform (default: auto)");
  verb.add_option("--low-rank", arguments.low_rank, "rank of the low-rank part of a tile (default: 0, none)")
      ->type_name("N");
  declare_tokens(verb, arguments.tokens);
  verb.add_option("--chunk-tokens", arguments.chunk_tokens, "tokens per chunk (default: 256)")
      ->type_name("N")
      ->check(CLI::Range(1u, kMaxChunkTokens).description(""));
  verb.add_option("--text", arguments.text, "keep this prompt in the archive, so that it can be recomputed")
      ->type_name(kFileType);
  verb.add_flag("--no-hadamard", arguments.no_hadamard,
                "a quantized cache was saved with LLAMA_ATTN_ROT_DISABLE=1 (not rotated)");
  verb.add_option("-j,--threads", arguments.threads, "threads to use (default: one per core)")->type_name("N");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing archive");
  verb.add_flag("--json", arguments.json, "print the summary as JSON");
}

void declare_encode(CLI::App& verb, EncodeArguments& arguments) {
  verb.add_option("IN", arguments.input, "KV file: llama.cpp state, safetensors or npy; - for standard input")
      ->type_name(kFileType)
      ->required();
  declare_encoding(verb, arguments);
  verb.footer(
      "Examples:\n"
      "  kvpack encode slot.bin --model model.gguf -o ctx.kvp\n"
      "  kvpack encode slot.bin -m model.json --quality lossless -o ctx.kvp\n"
      "  kvpack encode slot.bin -m model.gguf --bits 2.5 --text prompt.txt -o ctx.kvp\n"
      "  kvpack encode slot.bin -m model.gguf --keep-top 0.5 --merge-dropped -o ctx.kvp\n"
      "  ssh gpu cat slot.bin | kvpack encode - -m model.gguf -o - > ctx.kvp");
}

Result<int> run_encode(const EncodeArguments& arguments, Console& console) {
  KVPACK_RETURN_IF_ERROR(check_standard_input_used_once(arguments));
  return encode_opened(
      arguments,
      [&](const KvReadOptions& options) {
        return read_kv_input(arguments.input, options.facts, options.hadamard_rotated);
      },
      console);
}

Result<int> encode_opened(const EncodeArguments& arguments, const KvOpener& open, Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const auto output,
                          OutputFile::prepare(arguments.output, arguments.overwrite,
                                              {arguments.input, arguments.model, arguments.text, arguments.profile,
                                               arguments.tokens.saliency, arguments.tokens.keep}));
  if (output->is_stdout()) console.send_reports_to_stderr();
  KVPACK_ASSIGN_OR_RETURN(EncodeOptions options, encode_options(arguments));

  std::optional<ModelFacts> facts;
  if (!arguments.model.empty()) {
    KVPACK_ASSIGN_OR_RETURN(facts, read_model(arguments.model));
  }

  Stopwatch watch;
  const KvReadOptions read{facts ? &*facts : nullptr, !arguments.no_hadamard};
  KVPACK_ASSIGN_OR_RETURN(KvFile file, open(read));
  const std::optional<ModelFacts> reordered = file.facts;  // to the file's channels
  const ModelFacts* model = reordered ? &*reordered : read.facts;
  KVPACK_ASSIGN_OR_RETURN(const std::optional<LoadedProfile> profile, profile_for(arguments, model));
  if (profile) {
    options.profile = &profile->profile;
    options.profile_hash = profile->hash;
    if (arguments.embed_profile) options.embedded_profile = profile->bytes;
  }
  Progress progress(console, "encoding", file.tensor.raw_bytes());
  std::vector<std::string> notes;
  const Status chosen = choose_tokens(arguments.tokens, read, model, file, options,
                                      {arguments.model, arguments.measure, progress.callback()}, notes);
  if (!chosen.ok()) return chosen.error();
  EncodeTimes times;
  times.read_seconds = watch.lap();

  options.spill_folder = output->folder();
  options.progress = progress.callback();
  std::optional<Profile> measured;
  if (!profile && arguments.quality != quality_name(Quality::kLossless)) {
    measured = measure_context(file, model, arguments.model,
                               {arguments.measure, arguments.threads, progress.callback()}, notes);
  }
  if (measured) {
    options.profile = &*measured;
    options.store_basis = true;
  }
  const auto report = encode_archive(file, model, options, *output);
  progress.clear();
  if (!report.ok()) return about_file(report.error(), arguments.input);
  times.encode_seconds = std::max(0.0, watch.lap() - output->write_seconds());
  KVPACK_RETURN_IF_ERROR(output->commit());
  times.write_seconds = output->write_seconds();

  for (std::string& note : notes_of(*report, model)) notes.push_back(std::move(note));
  const EncodeSummary summary{arguments, file, *report, times, std::move(notes)};
  if (arguments.json) {
    console.print_json(json_of(summary));
  } else if (!console.quiet()) {
    print_summary(summary, console);
  }
  return kExitOk;
}

}  // namespace kvpack::cli
