// SPDX-License-Identifier: Apache-2.0
// kvpack profile train: needs a build with llama.cpp; others say so.
#include <fmt/format.h>

#include "cli/calibration_texts.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/profile.h"
#include "cli/progress.h"
#include "codec/profile_file.h"
#ifdef KVPACK_HAVE_LIBLLAMA
#include "net/engine/libllama_profile.h"
#include "net/engine/profile_calibration.h"
#endif

namespace kvpack::cli {

void declare_profile_train(CLI::App& verb, ProfileTrainArguments& arguments) {
  verb.add_option("MODEL", arguments.model, "the model, a .gguf with its weights")->type_name(kFileType)->required();
  verb.add_option("TEXT", arguments.texts, "UTF-8 texts like those to come (default: kvpack's own)")
      ->type_name(kFileType);
  verb.add_option("-o,--output", arguments.output, "profile to write")->type_name(kFileType)->required();
  verb.add_option("--seed", arguments.seed, "chooses windows and samples; the same gives the same (default: 0)")
      ->type_name("N");
  verb.add_option("--tokens", arguments.window_tokens, "tokens per window of text; the last ninth asks (default: 2304)")
      ->type_name("N")
      ->check(CLI::Range(64u, 1u << 17).description(""));
  verb.add_option("--windows", arguments.windows, "most windows to use (default: 6)")
      ->type_name("N")
      ->check(CLI::Range(1u, 10000u).description(""));
  verb.add_option("-j,--threads", arguments.threads, "threads to use (default: one per core)")->type_name("N");
  verb.add_flag("--no-flash-attention", arguments.no_flash_attention, "compute without llama.cpp's flash attention");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing profile");
  verb.add_flag("--json", arguments.json, "print the summary as JSON");
  verb.footer(
      "llama.cpp computes the texts once, forwards; no gradients, no GPU needed.\n\n"
      "Examples:\n"
      "  kvpack profile train model.gguf -o model.kvprofile\n"
      "  kvpack profile train model.gguf book.txt code.txt --windows 8 -o model.kvprofile");
}

#ifdef KVPACK_HAVE_LIBLLAMA

namespace {

constexpr uint64_t kMaxTextBytes = 1 << 30;

Result<std::vector<std::string>> read_texts(const ProfileTrainArguments& arguments) {
  if (arguments.texts.empty()) return calibration_texts();
  std::vector<std::string> texts;
  for (const std::string& path : arguments.texts) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, read_input(path, kMaxTextBytes));
    texts.emplace_back(as_text(bytes));
  }
  return texts;
}

void report(const ProfileTrainArguments& arguments, const engine::ProfileRun& run, ByteSpan bytes, double seconds,
            Console& console) {
  if (arguments.json) {
    console.print_json({{"profile", arguments.output},
                        {"hash", profile_hash(bytes)},
                        {"bytes", bytes.size()},
                        {"model", run.profile.model_name},
                        {"fingerprint", run.profile.model_fingerprint},
                        {"windows", run.windows},
                        {"window_tokens", run.window_tokens},
                        {"texts", run.texts},
                        {"attention_error", run.attention_error},
                        {"seconds", seconds}});
  } else if (!console.quiet()) {
    console.print(fmt::format("{}: {} of {} windows of {} tokens in {}\n", arguments.output,
                              short_bytes(static_cast<double>(bytes.size())), run.windows, run.window_tokens,
                              short_duration(seconds)));
  }
}

}  // namespace

Result<int> run_profile_train(const ProfileTrainArguments& arguments, Console& console) {
  std::vector<std::string> inputs = arguments.texts;
  inputs.push_back(arguments.model);
  KVPACK_ASSIGN_OR_RETURN(const auto output, OutputFile::prepare(arguments.output, arguments.overwrite, inputs));
  if (output->is_stdout()) console.send_reports_to_stderr();
  KVPACK_ASSIGN_OR_RETURN(const std::vector<std::string> texts, read_texts(arguments));

  engine::ProfileRunOptions options;
  options.seed = arguments.seed;
  options.window_tokens = arguments.window_tokens;
  options.windows = arguments.windows;
  options.threads = arguments.threads;
  options.flash_attention = !arguments.no_flash_attention;
  Stopwatch watch;
  Progress progress(console, "training");
  options.progress = progress.callback();
  auto run = engine::train_profile(arguments.model, texts, options);
  progress.clear();
  if (!run.ok()) return about_file(run.error(), arguments.model);
  KVPACK_ASSIGN_OR_RETURN(const ModelFacts facts, read_model(arguments.model));
  const auto calibration =
      engine::calibrate_profile(run->profile, arguments.model, facts, texts, {run->window_tokens, arguments.threads});
  if (calibration.ok()) {
    run->profile.method += fmt::format(", unit set by KL {:.4f} at low (scale {:.3f}, floor {:.4f})", calibration->kl,
                                       calibration->scale, calibration->floor);
  } else if (calibration.error().kind == ErrorKind::kInvalidArgument) {
    console.note("the profile's unit is estimated, not measured: " + calibration.error().message);
  } else {
    return about_file(calibration.error(), arguments.model);
  }
  const Bytes bytes = write_profile(run->profile);
  KVPACK_RETURN_IF_ERROR(output->write(bytes));
  KVPACK_RETURN_IF_ERROR(output->commit());
  report(arguments, *run, bytes, watch.seconds(), console);
  return kExitOk;
}

#else

Result<int> run_profile_train(const ProfileTrainArguments&, Console&) {
  return with_hint(unsupported("this kvpack was built without llama.cpp, which runs the model to be profiled"),
                   "build with -DKVPACK_LLAMA_DIR=DIR (its include/ and lib/), or `kvpack profile fit` KV files");
}

#endif

}  // namespace kvpack::cli
