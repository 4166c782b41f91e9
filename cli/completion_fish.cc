// SPDX-License-Identifier: Apache-2.0
// fish: one `complete` command per verb and option.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/completion_words.h"

namespace kvpack::cli {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string option_line(const CompletedOption& option, const std::string& condition) {
  std::string line = "complete -c kvpack" + condition;
  for (const std::string& name : option.names) {
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  if (option.takes_file) line += " -r -F";
  if (!option.value_name.empty() && !option.takes_file) line += " -x";
  if (!option.choices.empty()) line += fmt::format(" -a '{}'", fmt::join(option.choices, " "));
  return line + " -d " + quoted(option.description) + "\n";
}

std::string verb_lines(const CompletedVerb& verb) {
  const std::string condition = fmt::format(" -n '__fish_seen_subcommand_from {}'", verb.name);
  std::string lines =
      fmt::format("complete -c kvpack -n __fish_use_subcommand -f -a {} -d {}\n", verb.name, quoted(verb.description));
  for (const CompletedOption& option : verb.options) {
    lines += option_line(option, condition);
  }
  if (!verb.choices.empty()) {
    lines += fmt::format("complete -c kvpack{}{} -a '{}'\n", condition, verb.takes_files ? "" : " -f",
                         fmt::join(verb.choices, " "));
  } else if (!verb.takes_files) {
    lines += fmt::format("complete -c kvpack{} -f\n", condition);
  }
  return lines;
}

}  // namespace

std::string fish_completion(const CompletedProgram& program) {
  std::string text = "# fish completion for kvpack; save as ~/.config/fish/completions/kvpack.fish\n";
  for (const CompletedOption& option : program.options) text += option_line(option, "");
  for (const CompletedVerb& verb : program.verbs) text += verb_lines(verb);
  return text;
}

}  // namespace kvpack::cli
