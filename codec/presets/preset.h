// SPDX-License-Identifier: Apache-2.0
// Published recipes for KV caches, each in a file of its own, to be compared with on the same values: what remains of
// them, and how many bytes it takes. They are recipes, not products: a byte count instead of a stream, and no speed.
//
// Honest bytes: every scale, table, index, exact token and header that a decoder needs is counted. Entropy-coded parts
// are the output of a real coder (zstd), or the exact length of a static arithmetic code rounded up to bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "codec/profile.h"
#include "formats/kv_file.h"
#include "formats/model_facts.h"

namespace kvpack {

struct PresetInput {
  const KvFile& file;
  const ModelFacts* facts = nullptr;  // with them, recipes that undo RoPE do so
  const Profile* profile = nullptr;   // recipes that need a calibrated basis or token weights take them from it
  unsigned threads = 0;               // 0: one per core
};

struct PresetResult {
  KvTensor tensor;  // what the recipe gives back: the file's token sets and planes, contiguous rows
  uint64_t bytes = 0;
};

struct Preset {
  std::string name;    // "kivi-2"
  std::string family;  // "kivi": the points of one curve
  std::string recipe;  // one line
  std::function<Result<PresetResult>(const PresetInput&)> run;
};

const std::vector<Preset>& presets();

// "all", or names and families between commas. Error: invalid_argument names what is known.
Result<std::vector<const Preset*>> presets_named(std::string_view list);

// The files of this folder, each adding what it knows.
void add_cachegen(std::vector<Preset>& all);
void add_kivi(std::vector<Preset>& all);
void add_kvquant(std::vector<Preset>& all);
void add_gear(std::vector<Preset>& all);
void add_rotatekv(std::vector<Preset>& all);
void add_zipcache(std::vector<Preset>& all);
void add_minicache(std::vector<Preset>& all);
void add_ggml(std::vector<Preset>& all);
void add_kvtc(std::vector<Preset>& all);
void add_zstd(std::vector<Preset>& all);

}  // namespace kvpack
