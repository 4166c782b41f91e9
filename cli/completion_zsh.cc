// SPDX-License-Identifier: Apache-2.0
// A zsh function on _arguments: one specification per option, "'(-o --output)'{-o,--output}'[text]:value:action'".
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/completion_words.h"

namespace kvpack::cli {
namespace {

// Inside '...[...]': brackets and colons are syntax, quotes end the word.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out;
}

std::string value_spec(const CompletedOption& option) {
  if (option.value_name.empty()) return "";
  if (option.takes_file) return ":file:_files";
  if (!option.choices.empty()) return fmt::format(":value:({})", fmt::join(option.choices, " "));
  return fmt::format(":{}: ", escaped(option.value_name));
}

std::string option_spec(const CompletedOption& option) {
  const std::string rest = fmt::format("[{}]{}", escaped(option.description), value_spec(option));
  if (option.names.size() == 1) return fmt::format("'{}{}'", option.names[0], rest);
  return fmt::format("'({})'{{{}}}'{}'", fmt::join(option.names, " "), fmt::join(option.names, ","), rest);
}

std::string specs(const std::vector<CompletedOption>& options, const std::string& indent) {
  std::string text;
  for (const CompletedOption& option : options) text += fmt::format("{}{} \\\n", indent, option_spec(option));
  return text;
}

std::string verb_case(const CompletedVerb& verb) {
  std::string argument = verb.takes_files ? "'*:file:_files'" : "";
  if (!verb.choices.empty()) {
    argument = fmt::format("'1:value:({})'{}", fmt::join(verb.choices, " "), verb.takes_files ? " " + argument : "");
  }
  return fmt::format("    {})\n      _arguments -s \\\n{}        $shared {}\n      ;;\n", verb.name,
                     specs(verb.options, "        "), argument);
}

}  // namespace

std::string zsh_completion(const CompletedProgram& program) {
  std::string verbs;
  std::string cases;
  for (const CompletedVerb& verb : program.verbs) {
    verbs += fmt::format("    '{}:{}'\n", verb.name, escaped(verb.description));
    cases += verb_case(verb);
  }
  std::string shared;
  for (const CompletedOption& option : program.options) {
    // Help and version are of the verb or of the program, not of both.
    if (option.names.back() == "--help" || option.names.back() == "--version") continue;
    shared += "    " + option_spec(option) + "\n";
  }
  return fmt::format(R"(#compdef kvpack
# zsh completion for kvpack; put it into a folder of $fpath as _kvpack
_kvpack() {{
  local context state state_descr line
  typeset -A opt_args
  local -a verbs shared
  verbs=(
{0}  )
  shared=(
{1}  )
  _arguments -C \
{2}    '1:verb:->verb' '*::argument:->argument'
  case $state in
    verb) _describe 'verb' verbs; return ;;
    argument) ;;
    *) return ;;
  esac
  case $words[1] in
{3}  esac
}}
if [[ $funcstack[1] == _kvpack ]]; then
  _kvpack "$@"
else
  compdef _kvpack kvpack
fi
)",
                     verbs, shared, specs(program.options, "    "), cases);
}

}  // namespace kvpack::cli
