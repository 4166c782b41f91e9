// SPDX-License-Identifier: Apache-2.0
// The declared command line, as far as shells complete it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace kvpack::cli {

struct CompletedOption {
  std::vector<std::string> names;  // "-o", "--output"
  std::string description;
  std::string value_name;            // "": takes no value
  std::vector<std::string> choices;  // of its value
  bool takes_file = false;
};

struct CompletedVerb {
  std::string name;
  std::string description;
  std::vector<CompletedOption> options;
  bool takes_files = false;          // as arguments
  std::vector<std::string> choices;  // of its argument; with takes_files, of its first, and files after that
};

struct CompletedProgram {
  std::vector<CompletedVerb> verbs;
  std::vector<CompletedOption> options;  // before or after any verb
};

CompletedProgram completed_program(const CLI::App& program);

std::string bash_completion(const CompletedProgram& program);
std::string zsh_completion(const CompletedProgram& program);
std::string fish_completion(const CompletedProgram& program);

}  // namespace kvpack::cli
