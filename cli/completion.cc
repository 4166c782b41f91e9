// SPDX-License-Identifier: Apache-2.0
#include "cli/completion.h"

#include <algorithm>

#include "cli/completion_words.h"
#include "cli/exit_code.h"
#include "cli/option_types.h"

namespace kvpack::cli {
namespace {

std::vector<std::string> choices_in(const std::string& type_name) {
  if (type_name.find('|') == std::string::npos) return {};
  return CLI::detail::split(type_name, '|');
}

CompletedOption completed_option(const CLI::Option& option) {
  CompletedOption completed;
  for (const std::string& name : option.get_snames()) completed.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) completed.names.push_back("--" + name);
  completed.description = option.get_description();
  if (option.get_items_expected_max() == 0) return completed;
  completed.value_name = option.get_type_name();
  completed.choices = choices_in(completed.value_name);
  completed.takes_file = completed.value_name == kFileType;
  return completed;
}

void add_options(const CLI::App& verb, CompletedVerb& completed) {
  for (const CLI::Option* option : verb.get_options()) {
    if (!option->nonpositional()) {
      completed.takes_files = completed.takes_files || option->get_type_name() == kFileType;
      completed.choices = choices_in(option->get_type_name());
      continue;
    }
    CompletedOption added = completed_option(*option);
    const auto same = [&](const CompletedOption& other) { return other.names.back() == added.names.back(); };
    if (std::none_of(completed.options.begin(), completed.options.end(), same)) {
      completed.options.push_back(std::move(added));
    }
  }
}

// A verb with actions of its own (`profile train`) has their options together, and their names as its argument.
CompletedVerb completed_verb(const CLI::App& verb) {
  CompletedVerb completed;
  completed.name = verb.get_name();
  completed.description = verb.get_description();
  add_options(verb, completed);
  std::vector<std::string> actions;
  for (const CLI::App* action : verb.get_subcommands([](const CLI::App*) { return true; })) {
    add_options(*action, completed);
    actions.push_back(action->get_name());
  }
  if (!actions.empty()) completed.choices = actions;
  return completed;
}

}  // namespace

CompletedProgram completed_program(const CLI::App& program) {
  CompletedProgram completed;
  for (const CLI::Option* option : program.get_options()) completed.options.push_back(completed_option(*option));
  for (const CLI::App* verb : program.get_subcommands([](const CLI::App*) { return true; })) {
    completed.verbs.push_back(completed_verb(*verb));
  }
  // `help` takes the name of any verb.
  std::vector<std::string> names;
  for (const CompletedVerb& verb : completed.verbs) names.push_back(verb.name);
  for (CompletedVerb& verb : completed.verbs) {
    if (verb.name == "help") verb.choices = names;
  }
  return completed;
}

void declare_completion(CLI::App& verb, CompletionArguments& arguments) {
  add_choice(verb, "SHELL", arguments.shell, {"bash", "zsh", "fish"}, "the shell")->required();
  verb.footer(
      "Examples:\n"
      "  source <(kvpack completion bash)\n"
      "  kvpack completion zsh > ~/.zfunc/_kvpack\n"
      "  kvpack completion fish > ~/.config/fish/completions/kvpack.fish");
}

Result<int> run_completion(const CompletionArguments& arguments, Console& console) {
  const CompletedProgram program = completed_program(*arguments.program);
  if (arguments.shell == "bash") console.print(bash_completion(program));
  if (arguments.shell == "zsh") console.print(zsh_completion(program));
  if (arguments.shell == "fish") console.print(fish_completion(program));
  return kExitOk;
}

}  // namespace kvpack::cli
