// SPDX-License-Identifier: Apache-2.0
#include "cli/man_page.h"

#include <fmt/format.h>

#include "cli/exit_code.h"

namespace kvpack::cli {
namespace {

// Backslashes and minus signs are roff's; so are full stops and apostrophes where a line begins.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

std::string names_of(const CLI::Option& option) {
  if (!option.nonpositional()) return option.get_name(true);
  std::string names;
  for (const std::string& name : option.get_snames()) names += (names.empty() ? "-" : ", -") + name;
  for (const std::string& name : option.get_lnames()) names += (names.empty() ? "--" : ", --") + name;
  return names;
}

std::string option_entry(const CLI::Option& option) {
  std::string entry = ".TP\n\\fB" + escaped(names_of(option)) + "\\fR";
  if (option.get_items_expected_max() > 0 && !option.get_type_name().empty()) {
    entry += " \\fI" + escaped(option.get_type_name()) + "\\fR";
  }
  entry += "\n" + escaped(option.get_description());
  if (option.get_required()) entry += " (required)";
  return entry + "\n";
}

std::string option_entries(const CLI::App& app) {
  std::string entries;
  for (const bool positional : {true, false}) {
    for (const CLI::Option* option : app.get_options()) {
      if (option->nonpositional() != positional) entries += option_entry(*option);
    }
  }
  return entries;
}

// Paragraphs as they are: they hold examples, whose lines must not be joined.
std::string footer_of(const CLI::App& app) {
  if (app.get_footer().empty()) return "";
  return ".PP\n.nf\n" + escaped(app.get_footer()) + "\n.fi\n";
}

std::string usage_of(const CLI::App& verb) {
  std::string usage = verb.get_name() + " [OPTIONS]";
  for (const CLI::Option* option : verb.get_options()) {
    if (!option->nonpositional()) usage += " " + option->get_name(true);
  }
  return usage;
}

std::string exit_status() {
  std::string text = ".SH EXIT STATUS\n";
  for (const ExitMeaning& meaning : exit_meanings()) {
    text += fmt::format(".TP\n\\fB{}\\fR\n{}\n", meaning.codes, escaped(std::string(meaning.meaning)));
  }
  return text;
}

}  // namespace

std::string man_page(const CLI::App& program, const std::string& version) {
  std::string page = fmt::format(
      ".TH KVPACK 1 \"\" \"{0}\"\n"
      ".SH NAME\nkvpack \\- compress KV caches of language models\n"
      ".SH SYNOPSIS\n\\fBkvpack\\fR \\fIVERB\\fR [\\fIOPTIONS\\fR] ...\n"
      ".SH DESCRIPTION\n{1}\n"
      ".SH OPTIONS\nThese may stand before or after the verb.\n{2}",
      escaped(version), escaped(program.get_description()), option_entries(program));
  page += ".SH VERBS\n";
  for (const CLI::App* verb : program.get_subcommands([](const CLI::App*) { return true; })) {
    page += fmt::format(".SS kvpack {}\n{}\n{}{}", escaped(usage_of(*verb)), escaped(verb->get_description()),
                        option_entries(*verb), footer_of(*verb));
  }
  page += exit_status();
  page +=
      ".SH ENVIRONMENT\n"
      ".TP\n\\fBKVPACK_ISA\\fR\nscalar, avx2, avx512 or neon: instructions to use (default: the best that the machine "
      "has; results are the same)\n"
      ".TP\n\\fBNO_COLOR\\fR\nif set and not empty, no colours (with \\fB\\-\\-color auto\\fR)\n"
      ".TP\n\\fBTERM\\fR\n\"dumb\": no colours and no progress line\n";
  return page;
}

}  // namespace kvpack::cli
