// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <utility>
#include <vector>

#include "cli/bench.h"
#include "cli/blend.h"
#include "cli/completion.h"
#include "cli/console.h"
#include "cli/decode.h"
#include "cli/diff.h"
#include "cli/encode.h"
#include "cli/exit_code.h"
#include "cli/fetch.h"
#include "cli/inspect.h"
#include "cli/load.h"
#include "cli/man_page.h"
#include "cli/mistyped_word.h"
#include "cli/model.h"
#include "cli/option_types.h"
#include "cli/plan.h"
#include "cli/profile.h"
#include "cli/push.h"
#include "cli/save.h"
#include "cli/serve.h"
#include "cli/verify.h"
#include "cli/version.h"
#include "codec/kernels.h"

namespace kvpack::cli {
namespace {

struct Verb {
  CLI::App* app = nullptr;
  std::function<Result<int>(Console&)> run;
};

// Everything that parsing fills in, and the parser; lives as long as the program runs.
struct CommandLine {
  CLI::App app{"Compresses KV caches of language models into archives that are small enough to keep and move.",
               "kvpack"};
  bool quiet = false;
  std::string color = "auto";
  EncodeArguments encode;
  DecodeArguments decode;
  InspectArguments inspect;
  VerifyArguments verify;
  FetchArguments fetch;
  LoadArguments load;
  SaveArguments save;
  PlanArguments plan;
  BlendArguments blend;
  DiffArguments diff;
  ModelArguments model;
  ProfileArguments profile;
  PushArguments push;
  ServeArguments serve;
  BenchArguments bench;
  VersionArguments version;
  CompletionArguments completion;
  std::string help_topic;
  bool help_as_man_page = false;
  std::vector<Verb> verbs;
};

template <typename Arguments>
void add_verb(CommandLine& line, const char* name, const char* description, Arguments& arguments,
              void (*declare)(CLI::App&, Arguments&), Result<int> (*run)(const Arguments&, Console&)) {
  CLI::App* verb = line.app.add_subcommand(name, description);
  verb->fallthrough();  // --quiet and --color may stand after the verb
  declare(*verb, arguments);
  line.verbs.push_back({verb, [&arguments, run](Console& console) { return run(arguments, console); }});
}

std::string help_of(const CLI::App& verb) { return verb.help("kvpack"); }

Result<int> run_help(const CommandLine& line, const Console& console) {
  if (line.help_as_man_page) {
    console.print(man_page(line.app, version_line()));
    return kExitOk;
  }
  if (line.help_topic.empty()) {
    console.print(line.app.help());
    return kExitOk;
  }
  for (const Verb& verb : line.verbs) {
    if (!verb.app->check_name(line.help_topic)) continue;
    console.print(help_of(*verb.app));
    return kExitOk;
  }
  return with_hint(invalid_argument("no verb '" + line.help_topic + "'"), suggested_verb(line.app, line.help_topic));
}

void declare_program(CommandLine& line) {
  line.app.set_version_flag("-V,--version", version_line(), "print the version and exit");
  line.app.set_help_flag("-h,--help", "print this help and exit");
  line.app.add_flag("-q,--quiet", line.quiet, "print errors only");
  add_choice(line.app, "--color", line.color, {"auto", "always", "never"}, "colours (default: auto)");
  line.app.require_subcommand(1);
  const auto formatter = line.app.get_formatter();  // the verbs share it
  formatter->label("SUBCOMMAND", "VERB");
  formatter->label("Subcommands", "Verbs");
  formatter->label("Positionals", "Arguments");
  formatter->label("REQUIRED", "(required)");
  formatter->label("Excludes", "not with");

  add_verb(line, "encode", "compress a KV file into an archive", line.encode, declare_encode, run_encode);
  add_verb(line, "decode", "turn an archive back into a KV file", line.decode, declare_decode, run_decode);
  add_verb(line, "inspect", "show what an archive holds", line.inspect, declare_inspect, run_inspect);
  add_verb(line, "verify", "check that archives are whole", line.verify, declare_verify, run_verify);
  add_verb(line, "diff", "compare two KV files or archives", line.diff, declare_diff, run_diff);
  add_verb(line, "fetch", "bring a context from a URL before a deadline", line.fetch, declare_fetch, run_fetch);
  add_verb(line, "load", "restore a context into a running llama-server", line.load, declare_load, run_load);
  add_verb(line, "save", "take a context out of a running llama-server into an archive", line.save, declare_save,
           run_save);
  add_verb(line, "plan", "predict a fetch on a given link", line.plan, declare_plan, run_plan);
  add_verb(line, "blend", "join contexts that were cached on their own, for a query", line.blend, declare_blend,
           run_blend);
  add_verb(line, "model", "show or save what kvpack needs to know of a model", line.model, declare_model, run_model);
  add_verb(line, "profile", "learn or show a model's profile, which makes archives smaller", line.profile,
           declare_profile, run_profile);
  add_verb(line, "push", "upload an archive", line.push, declare_push, run_push);
  add_verb(line, "serve", "serve a folder of archives over HTTP", line.serve, declare_serve, run_serve);
  add_verb(line, "bench", "compare with published methods, by size and by what they do to predictions", line.bench,
           declare_bench, run_bench);
  add_verb(line, "version", "show versions of kvpack and its libraries", line.version, declare_version, run_version);
  add_verb(line, "completion", "print completions for a shell", line.completion, declare_completion, run_completion);
  line.completion.program = &line.app;

  CLI::App* help = line.app.add_subcommand("help", "show help, of a verb if one is named");
  help->add_option("VERB", line.help_topic, "the verb")->type_name("");
  help->add_flag("--man", line.help_as_man_page, "print the manual page, as `man` reads it");
  help->footer(
      "Examples:\n"
      "  kvpack help encode\n"
      "  kvpack help --man | man -l -");
  line.verbs.push_back({help, [&line](Console& console) { return run_help(line, console); }});

  // After the verbs, which would inherit it.
  line.app.footer(
      "Examples:\n"
      "  kvpack encode slot.bin --model model.gguf -o ctx.kvp\n"
      "  kvpack inspect ctx.kvp\n"
      "  kvpack decode ctx.kvp -o slot.bin\n\n"
      "`kvpack VERB --help` tells more; so does `man kvpack`, with all exit codes.");
}

int finish(const Result<int>& outcome, const Console& console) {
  int exit_code = kExitOk;
  if (outcome.ok()) {
    exit_code = *outcome;
  } else {
    console.error(outcome.error());
    exit_code = exit_code_of(outcome.error().kind);
  }
  if (const Status flushed = console.flush(); !flushed.ok() && exit_code == kExitOk) {
    console.error(flushed.error());
    exit_code = kExitIo;
  }
  return exit_code;
}

// What to do instead of running a verb: print help or the version, or explain what is wrong with the arguments.
int finish_parse(const CommandLine& line, const CLI::ParseError& problem, const Console& console) {
  // The innermost of verb and action that was recognised, and how to call it.
  const CLI::App* innermost = &line.app;
  std::string called = "kvpack";
  for (auto parsed = line.app.get_subcommands(); !parsed.empty(); parsed = innermost->get_subcommands()) {
    innermost = parsed.front();
    called += " " + innermost->get_name();
  }
  const CLI::App& about = *innermost;
  if (problem.get_name() == "CallForVersion") {
    console.print(version_line() + "\n");
    return finish(int{kExitOk}, console);
  }
  if (problem.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    console.print(innermost == &line.app ? about.help() : help_of(about));
    return finish(int{kExitOk}, console);
  }
  const bool lacks_verb = innermost == &line.app && problem.get_name() == "RequiredError";
  const std::string what = lacks_verb ? "no verb is given" : problem.what();
  return finish(with_hint(invalid_argument(what), "see `" + called + " --help`"), console);
}

ColorChoice color_choice(const std::string& name) {
  return name == "always" ? ColorChoice::kAlways : name == "never" ? ColorChoice::kNever : ColorChoice::kAuto;
}

}  // namespace

int run_program(int argc, char** argv) {
  CommandLine line;
  declare_program(line);
  // Before the parser, whose first complaint would be about what is missing, not about what is mistyped.
  if (const auto mistyped = find_mistyped_word(line.app, {argv + 1, argv + argc})) return finish(*mistyped, Console());
  try {
    line.app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return finish_parse(line, problem, Console(color_choice(line.color), line.quiet));
  }
  Console console(color_choice(line.color), line.quiet);
  if (const Status choice = check_kernel_choice(); !choice.ok()) return finish(choice.error(), console);
  for (const Verb& verb : line.verbs) {
    if (verb.app->parsed()) return finish(verb.run(console), console);
  }
  return kExitUsage;  // unreachable: one verb is required
}

}  // namespace kvpack::cli
