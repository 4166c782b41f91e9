// SPDX-License-Identifier: Apache-2.0
#include "cli/bench.h"

#include <fmt/format.h>

#include <optional>
#include <thread>

#include "cli/bench_curve.h"
#include "cli/bench_engine.h"
#include "cli/bench_plot.h"
#include "cli/bench_prediction.h"
#include "cli/bench_report.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/measured_profile.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"

namespace kvpack::cli {
namespace {

// Methods of a run, the same for every file.
struct Methods {
  std::vector<OwnMethod> own;
  std::vector<const Preset*> presets;

  size_t count() const { return own.size() + presets.size(); }
};

Result<Methods> methods_of(const BenchArguments& arguments, const LoadedProfile* profile) {
  Methods methods;
  methods.own.push_back({Quality::kLossless, {}, nullptr});
  std::vector<const LoadedProfile*> with = {nullptr};
  if (profile != nullptr) with.push_back(profile);
  for (const LoadedProfile* of_points : with) {
    for (const Quality quality : {Quality::kHigh, Quality::kMedium, Quality::kLow}) {
      methods.own.push_back({quality, {}, of_points});
    }
  }
  for (const double bits : arguments.bits) methods.own.push_back({Quality::kMedium, bits, with.back()});
  if (arguments.against != "none") {
    KVPACK_ASSIGN_OR_RETURN(methods.presets, presets_named(arguments.against));
  }
  return methods;
}

Status check_arguments(const BenchArguments& arguments) {
  if (arguments.engine.empty() != arguments.texts.empty())
    return invalid_argument("--engine and --text belong together: what predicts, and what it is to predict");
  if (!arguments.texts.empty() && arguments.texts.size() != arguments.inputs.size()) {
    return invalid_argument(fmt::format("{} texts for {} files: name one for each, in their order",
                                        arguments.texts.size(), arguments.inputs.size()));
  }
  if (!arguments.plot.empty() && arguments.engine.empty())
    return invalid_argument("--plot shows KL, which takes --engine");
  for (const std::string& path : arguments.inputs) {
    if (path == "-") return invalid_argument("bench reads files, not standard input");
  }
  return {};
}

Result<std::vector<BenchPoint>> bench_file(const BenchFile& file, const Methods& methods, const LoadedProfile* profile,
                                           BenchEngine* engine, const ProgressFn& progress) {
  std::vector<BenchPoint> points;
  std::optional<ErrorInComponents> error;
  if (profile != nullptr) error.emplace(file, profile->profile);
  const auto keep = [&](BenchOutcome outcome) -> Status {
    if (error) {
      KVPACK_ASSIGN_OR_RETURN(outcome.point.component_error, error->of(outcome.restored));
    }
    if (engine != nullptr) {
      KVPACK_ASSIGN_OR_RETURN(outcome.point.predictions, engine->judge(outcome.restored));
    }
    points.push_back(std::move(outcome.point));
    return {};
  };
  const auto tell = [&](const std::string& name) {
    if (progress) progress(points.size(), methods.count(), file.path + ": " + name);
  };
  for (const OwnMethod& method : methods.own) {
    tell("kvpack");
    KVPACK_ASSIGN_OR_RETURN(BenchOutcome outcome, bench_own(file, method));
    KVPACK_RETURN_IF_ERROR(keep(std::move(outcome)));
  }
  for (const Preset* preset : methods.presets) {
    tell(preset->name);
    KVPACK_ASSIGN_OR_RETURN(BenchOutcome outcome,
                            bench_preset(file, *preset, profile != nullptr ? &profile->profile : nullptr));
    KVPACK_RETURN_IF_ERROR(keep(std::move(outcome)));
  }
  predict_losses(points);
  return points;
}

// A file that a run writes at its end, made sure of before it begins.
Result<std::unique_ptr<OutputFile>> prepare(const BenchArguments& arguments, const std::string& path) {
  if (path.empty()) return std::unique_ptr<OutputFile>();
  return OutputFile::prepare(path, arguments.overwrite, arguments.inputs);
}

Status write(const std::string& text, const std::unique_ptr<OutputFile>& output) {
  if (output == nullptr) return {};
  KVPACK_RETURN_IF_ERROR(output->write(as_byte_span(text)));
  return output->commit();
}

std::string picture_of(const BenchRun& run) {
  return bench_plot(mean_points(run.points),
                    fmt::format("Loss of predictions by size: mean over {} file{}, {} tokens each", run.files.size(),
                                run.files.size() == 1 ? "" : "s", run.continuation));
}

}  // namespace

void declare_bench(CLI::App& verb, BenchArguments& arguments) {
  verb.add_option("FILE", arguments.inputs, "KV files of one model")->type_name(kFileType)->required()->expected(-1);
  verb.add_option("-m,--model", arguments.model, "the model: .gguf, config.json or kvpack's model.json")
      ->type_name(kFileType);
  auto* profile = verb.add_option("--profile", arguments.profile,
                                  "profile of the model (default: beside the model, or an installed one)");
  profile->type_name(kFileType);
  verb.add_flag("--no-profile", arguments.no_profile, "use none, even if one is found")->excludes(profile);
  verb.add_option("--against", arguments.against, "presets or families, between commas; none (default: all)")
      ->type_name("LIST");
  verb.add_option("--bits", arguments.bits,
                  "more points of kvpack's own, in bits per value, with the profile if there is one")
      ->type_name("N")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::PositiveNumber.description(""));
  verb.add_option("--engine", arguments.engine, "GGUF to ask what it predicts after each restored file")
      ->type_name(kFileType);
  verb.add_option("--text", arguments.texts, "with --engine, for each FILE: the text that it holds the beginning of")
      ->type_name(kFileType)
      ->allow_extra_args(false);
  verb.add_option("--continuation", arguments.continuation, "tokens of the text to predict (default: 512)")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 20).description(""));
  verb.add_option("--plot", arguments.plot, "picture to write (SVG): KL by bits per value")->type_name(kFileType);
  verb.add_option("-j,--threads", arguments.threads, "threads to use (default: one per core)")->type_name("N");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite existing files");
  verb.add_flag("--markdown", arguments.markdown, "print the tables as Markdown");
  verb.add_flag("--json", arguments.json, "print every file's figures as JSON");
  verb.add_option("-o,--output", arguments.output, "write the JSON here, beside what is printed")->type_name(kFileType);
  verb.footer(
      "Presets are published recipes as `codec/presets` has them, every byte counted; they have no speed of\n"
      "their own; components and token weights that they calibrate are a profile's or the file's own, free. The\n"
      "predicted KL is what a profile expects (`low` with it: 0.02). A model with quantized weights rounds its\n"
      "activations, which hides small losses: ask one with f32 weights.\n\n"
      "Examples:\n"
      "  kvpack bench slot.bin -m model.gguf --against cachegen,kivi\n"
      "  kvpack bench slot.bin -m model.gguf --engine model-f32.gguf --text book.txt --plot kl.svg");
}

Result<int> run_bench(const BenchArguments& arguments, Console& console) {
  KVPACK_RETURN_IF_ERROR(check_arguments(arguments));
  KVPACK_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> plot, prepare(arguments, arguments.plot));
  KVPACK_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> report, prepare(arguments, arguments.output));
  std::optional<ModelFacts> facts;
  if (!arguments.model.empty()) {
    KVPACK_ASSIGN_OR_RETURN(facts, read_model(arguments.model));
  }
  std::optional<LoadedProfile> profile;
  if (facts && !arguments.no_profile) {
    KVPACK_ASSIGN_OR_RETURN(profile, find_profile_for_model(arguments.profile, arguments.model, *facts));
  } else if (!arguments.profile.empty()) {
    return invalid_argument("--profile needs --model: a profile is used on keys with RoPE undone");
  }
  const LoadedProfile* with = profile ? &*profile : nullptr;
  KVPACK_ASSIGN_OR_RETURN(const Methods methods, methods_of(arguments, with));

  BenchRun run;
  run.threads = arguments.threads > 0 ? arguments.threads : std::max(1u, std::thread::hardware_concurrency());
  run.continuation = arguments.engine.empty() ? 0 : arguments.continuation;
  Progress progress(console, "benchmarking");
  for (size_t f = 0; f < arguments.inputs.size(); ++f) {
    BenchFile file{arguments.inputs[f], {}, nullptr, run.threads, {}};
    KVPACK_ASSIGN_OR_RETURN(file.file, read_kv_input(file.path, facts ? &*facts : nullptr, /*hadamard_rotated=*/true));
    file.facts = file.file.facts ? &*file.file.facts : facts ? &*facts : nullptr;
    std::vector<std::string> notes;
    file.measured = measure_context(file.file, file.facts, arguments.model, {kMeasuredQueries, run.threads, {}}, notes);
    std::unique_ptr<BenchEngine> engine;
    if (!arguments.engine.empty()) {
      KVPACK_ASSIGN_OR_RETURN(engine,
                              BenchEngine::open({arguments.engine, arguments.texts[f], arguments.continuation}, file));
    }
    auto points = bench_file(file, methods, with, engine.get(), progress.callback());
    if (!points.ok()) {
      progress.clear();
      return about_file(points.error(), file.path);
    }
    run.files.push_back(file.path);
    run.points.push_back(std::move(*points));
  }
  progress.clear();
  if (plot != nullptr) KVPACK_RETURN_IF_ERROR(write(picture_of(run), plot));
  KVPACK_RETURN_IF_ERROR(write(json_of(run).dump(2) + "\n", report));
  if (arguments.json) {
    console.print_json(json_of(run));
  } else {
    print_bench(run, arguments.markdown, console);
  }
  return kExitOk;
}

}  // namespace kvpack::cli
