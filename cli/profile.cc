// SPDX-License-Identifier: Apache-2.0
#include "cli/profile.h"

namespace kvpack::cli {
namespace {

template <auto Member, auto Run>
Result<int> run_action(const ProfileArguments& arguments, Console& console) {
  return Run(arguments.*Member, console);
}

template <auto Member, auto Declare, auto Run>
void add_action(CLI::App& verb, const char* name, const char* description, ProfileArguments& arguments) {
  CLI::App* action = verb.add_subcommand(name, description);
  action->fallthrough();
  Declare(*action, arguments.*Member);
  arguments.actions.emplace_back(action, run_action<Member, Run>);
}

}  // namespace

void declare_profile(CLI::App& verb, ProfileArguments& arguments) {
  verb.require_subcommand(0, 1);  // none: run_profile says what there is
  add_action<&ProfileArguments::train, declare_profile_train, run_profile_train>(
      verb, "train", "learn a profile by running a model over texts", arguments);
  add_action<&ProfileArguments::fit, declare_profile_fit, run_profile_fit>(
      verb, "fit", "learn a lesser profile from KV files alone", arguments);
  add_action<&ProfileArguments::inspect, declare_profile_inspect, run_profile_inspect>(
      verb, "inspect", "show what a profile says", arguments);
  verb.footer(
      "A profile belongs to one model and serves all of its contexts.\n\n"
      "Examples:\n"
      "  kvpack profile train model.gguf -o model.kvprofile\n"
      "  kvpack profile inspect model.kvprofile");
}

Result<int> run_profile(const ProfileArguments& arguments, Console& console) {
  for (const auto& [action, run] : arguments.actions) {
    if (action->parsed()) return run(arguments, console);
  }
  return with_hint(invalid_argument("profile: what to do?"), "`kvpack profile train`, `fit` or `inspect`");
}

}  // namespace kvpack::cli
