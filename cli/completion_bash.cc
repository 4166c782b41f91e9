// SPDX-License-Identifier: Apache-2.0
// A bash function: the first word that names a verb selects options; the word before the cursor selects values.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/completion_words.h"

namespace kvpack::cli {
namespace {

std::string words_of(const std::vector<CompletedOption>& options) {
  std::string words;
  for (const CompletedOption& option : options) {
    for (const std::string& name : option.names) words += name + " ";
  }
  return words;
}

// Lines of `case "$verb $previous"`, one for each option that takes a value.
std::string value_cases(const std::string& verb_pattern, const std::vector<CompletedOption>& options) {
  std::string cases;
  for (const CompletedOption& option : options) {
    if (option.value_name.empty()) continue;
    std::string pattern;
    for (const std::string& name : option.names) {
      pattern += fmt::format("{}{}\" {}\"", pattern.empty() ? "" : "|", verb_pattern, name);
    }
    const std::string action = option.takes_file ? "compopt -o default 2>/dev/null; COMPREPLY=()"
                                                 : fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$current\"))",
                                                               fmt::join(option.choices, " "));
    cases += fmt::format("    {}) {}; return ;;\n", pattern, action);
  }
  return cases;
}

std::string verb_case(const CompletedVerb& verb, const std::string& global_words) {
  std::string argument = "COMPREPLY=()";
  if (verb.takes_files) argument = "compopt -o default 2>/dev/null; COMPREPLY=()";
  if (!verb.choices.empty()) {
    const std::string choice =
        fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$current\"))", fmt::join(verb.choices, " "));
    argument = verb.takes_files ? fmt::format("if [[ $previous == \"$verb\" ]]; then {}; else {}; fi", choice, argument)
                                : choice;
  }
  return fmt::format("    {}) options='{}{}'; [[ $current == -* ]] || {{ {}; return; }} ;;\n", verb.name,
                     words_of(verb.options), global_words, argument);
}

}  // namespace

std::string bash_completion(const CompletedProgram& program) {
  const std::string global_words = words_of(program.options);
  std::vector<std::string> names;
  std::string values;
  std::string cases;
  for (const CompletedVerb& verb : program.verbs) {
    names.push_back(verb.name);
    values += value_cases(verb.name, verb.options);
    cases += verb_case(verb, global_words);
  }
  values += value_cases("*", program.options);
  return fmt::format(R"(# bash completion for kvpack; load with: source <(kvpack completion bash)
_kvpack() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} verb= options= word
  local verbs='{0}'
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ " $verbs " == *" $word "* ]] && {{ verb=$word; break; }}
  done
  case "$verb $previous" in
{1}  esac
  case "$verb" in
{2}    *) options="$verbs {3}" ;;
  esac
  COMPREPLY=($(compgen -W "$options" -- "$current"))
}}
complete -F _kvpack kvpack
)",
                     fmt::join(names, " "), values, cases, global_words);
}

}  // namespace kvpack::cli
