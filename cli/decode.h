// SPDX-License-Identifier: Apache-2.0
// kvpack decode: an archive becomes a KV file again, the same or another layout, all of it or a part.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "cli/console.h"

namespace kvpack::cli {

struct DecodeArguments {
  std::string input;
  std::string output;
  std::string profile;  // "": looked for
  std::string model;    // only to find a profile beside it
  std::string tokens;  // a range; "": all
  std::string layers;  // a range; "": all
  std::optional<uint32_t> level;
  std::string to;  // "llama", "safetensors", "npy"; "": as the source was
  std::optional<uint32_t> streams;
  std::optional<uint32_t> stream;
  std::string v_layout;      // "row", "transposed"; "": as the source was
  std::string cache_type_k;  // "": as the source was
  std::string cache_type_v;
  std::string dtype;    // of safetensors and npy
  std::string payload;  // "plain", "packed"; "": as the source was
  bool guard_cell = false;
  bool no_guard_cell = false;
  uint32_t threads = 0;  // 0: one per core
  bool overwrite = false;
  bool json = false;
};

void declare_decode(CLI::App& verb, DecodeArguments& arguments);
Result<int> run_decode(const DecodeArguments& arguments, Console& console);

}  // namespace kvpack::cli
