// SPDX-License-Identifier: Apache-2.0
// kvpack profile: what a model's caches have in common, learned once per model, so that archives of them are smaller.
//   train    from the model itself, which llama.cpp runs over texts (profile_train.cc)
//   fit      from KV files alone (profile_fit.cc)
//   inspect  what a profile says (profile_inspect.cc)
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/console.h"
#include "codec/profile.h"

namespace kvpack::cli {

struct ProfileTrainArguments {
  std::string model;
  std::vector<std::string> texts;  // empty: the texts that kvpack carries
  std::string output;
  uint64_t seed = 0;
  uint32_t window_tokens = 2304;
  uint32_t windows = 6;
  unsigned threads = 0;
  bool no_flash_attention = false;
  bool overwrite = false;
  bool json = false;
};

struct ProfileFitArguments {
  std::vector<std::string> inputs;
  std::string model;
  std::string output;
  bool no_hadamard = false;
  bool overwrite = false;
};

struct ProfileInspectArguments {
  std::string input;
  bool json = false;
};

struct ProfileArguments {
  ProfileTrainArguments train;
  ProfileFitArguments fit;
  ProfileInspectArguments inspect;
  std::vector<std::pair<const CLI::App*, Result<int> (*)(const ProfileArguments&, Console&)>> actions;
};

void declare_profile(CLI::App& verb, ProfileArguments& arguments);
Result<int> run_profile(const ProfileArguments& arguments, Console& console);

void declare_profile_train(CLI::App& verb, ProfileTrainArguments& arguments);
Result<int> run_profile_train(const ProfileTrainArguments& arguments, Console& console);
void declare_profile_fit(CLI::App& verb, ProfileFitArguments& arguments);
Result<int> run_profile_fit(const ProfileFitArguments& arguments, Console& console);
void declare_profile_inspect(CLI::App& verb, ProfileInspectArguments& arguments);
Result<int> run_profile_inspect(const ProfileInspectArguments& arguments, Console& console);

}  // namespace kvpack::cli
