// SPDX-License-Identifier: Apache-2.0
// kvpack encode: a KV file becomes an archive.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "cli/console.h"
#include "cli/measured_profile.h"
#include "cli/token_choice.h"

namespace kvpack::cli {

struct EncodeArguments {
  std::string input;
  std::string output;
  std::string model;    // "": none
  std::string profile;  // "": looked for
  bool no_profile = false;
  bool embed_profile = false;
  uint32_t measure = kMeasuredQueries;  // tokens taken through the model where there is no profile
  std::string quality = "medium";
  std::optional<double> bits_per_value;
  std::optional<double> ratio;
  std::optional<double> max_error;
  std::string transform = "auto";
  uint32_t low_rank = 0;
  TokenArguments tokens;
  uint32_t chunk_tokens = 0;  // 0: the format's default
  std::string text;           // file with the prompt; "": none
  bool no_hadamard = false;
  uint32_t threads = 0;  // 0: one per core
  bool overwrite = false;
  bool json = false;
};

// What `save` shares with it: all options but the input, --output and --force included.
void declare_encoding(CLI::App& verb, EncodeArguments& arguments);
// Opens the KV file to encode, which messages call `arguments.input`.
using KvOpener = std::function<Result<KvFile>(const KvReadOptions&)>;
Result<int> encode_opened(const EncodeArguments& arguments, const KvOpener& open, Console& console);

void declare_encode(CLI::App& verb, EncodeArguments& arguments);
Result<int> run_encode(const EncodeArguments& arguments, Console& console);

}  // namespace kvpack::cli
