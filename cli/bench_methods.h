// SPDX-License-Identifier: Apache-2.0
// One method on one KV file: bytes, error, time, and the file as a decoder would give it back.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/bench_layers.h"
#include "cli/profile_lookup.h"
#include "codec/presets/preset.h"
#include "formats/kv_file.h"

namespace kvpack::cli {

// What every method of a run works on.
struct BenchFile {
  std::string path;
  KvFile file;
  const ModelFacts* facts = nullptr;  // as they hold for the file; null: none
  unsigned threads = 0;
  std::optional<Profile> measured;  // of this context, as encode makes it where there is no profile
};

// Means per token over a continuation; natural logarithms.
struct BenchPredictions {
  double kl = 0;
  double delta_nll = 0;
  double top1 = 0;
};

struct BenchPoint {
  std::string name;
  std::string family;  // the curve that it lies on
  std::string recipe;  // one line
  uint64_t bytes = 0;
  double bits_per_value = 0;
  double relative_error = 0;                 // |decoded - stored| / |stored|
  double seconds = 0;                        // presets: there and back, as simulated
  std::optional<double> encode_bytes_per_s;  // of stored values, per thread; own methods only
  std::optional<double> decode_bytes_per_s;
  std::optional<double> component_error;  // with a profile: bench_prediction.h
  std::optional<double> predicted_kl;
  std::optional<BenchPredictions> predictions;
  std::vector<LevelCost> layering;  // own high quality only; else empty
};

struct BenchOutcome {
  BenchPoint point;
  Bytes restored;  // the whole file again
};

// kvpack itself: a named quality, or so many bits per value. `profile` may be null.
struct OwnMethod {
  Quality quality = Quality::kMedium;
  std::optional<double> bits;
  const LoadedProfile* profile = nullptr;
};
inline constexpr const char* kOwnFamily = "kvpack";
inline constexpr const char* kOwnProfileFamily = "kvpack+profile";

Result<BenchOutcome> bench_own(const BenchFile& file, const OwnMethod& method);
Result<BenchOutcome> bench_preset(const BenchFile& file, const Preset& preset, const Profile* profile);

}  // namespace kvpack::cli
