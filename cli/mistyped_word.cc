// SPDX-License-Identifier: Apache-2.0
#include "cli/mistyped_word.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "cli/console.h"
#include "cli/suggestion.h"

namespace kvpack::cli {
namespace {

const CLI::App* find_verb(const CLI::App& program, const std::string& name) {
  const auto found = program.get_subcommands([&name](const CLI::App* verb) { return verb->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

std::vector<std::string> verb_names(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* verb : program.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(verb->get_name());
  }
  return names;
}

std::vector<std::string> long_options(const CLI::App& program, const CLI::App* verb) {
  std::vector<std::string> names;
  for (const CLI::App* app : {verb, &program}) {
    if (app == nullptr) continue;
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  }
  return names;
}

Error unknown_option(const std::string& name, const CLI::App& program, const CLI::App* verb) {
  const std::string meant = closest_word(name, long_options(program, verb));
  const std::string hint = meant.empty() ? fmt::format("see `kvpack{} --help`", verb ? " " + verb->get_name() : "")
                                         : fmt::format("did you mean '{}'?", meant);
  return with_hint(invalid_argument(fmt::format("unknown option '{}'", name)), hint);
}

}  // namespace

std::string suggested_verb(const CLI::App& program, const std::string& word) {
  const std::vector<std::string> names = verb_names(program);
  const std::string meant = closest_word(word, names);
  return meant.empty() ? fmt::format("verbs: {}", fmt::join(names, ", ")) : fmt::format("did you mean '{}'?", meant);
}

std::optional<Error> find_mistyped_word(const CLI::App& program, const std::vector<std::string>& arguments) {
  const CLI::App* verb = nullptr;
  const CLI::Option* awaiting_value = nullptr;
  for (const std::string& word : arguments) {
    if (word == "--") return std::nullopt;
    if (word.starts_with("--")) {
      const std::string name = word.substr(0, word.find('='));
      const CLI::Option* option = verb != nullptr ? verb->get_option_no_throw(name) : nullptr;
      if (option == nullptr) option = program.get_option_no_throw(name);
      if (option == nullptr) return unknown_option(name, program, verb);
      awaiting_value = name == word && option->get_items_expected_max() > 0 ? option : nullptr;
      continue;
    }
    const bool is_value = std::exchange(awaiting_value, nullptr) != nullptr;
    const CLI::App& outer = verb != nullptr ? *verb : program;  // a verb may have actions, like `profile train`
    if (verb_names(outer).empty() || is_value || word.starts_with('-')) continue;
    verb = find_verb(outer, word);
    if (verb == nullptr) {
      return with_hint(invalid_argument(fmt::format("unknown verb '{}'", word)), suggested_verb(outer, word));
    }
  }
  return std::nullopt;
}

}  // namespace kvpack::cli
