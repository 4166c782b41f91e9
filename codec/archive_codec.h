// SPDX-License-Identifier: Apache-2.0
// A whole context: KvFile -> .kvp archive -> KvTensor or the same file again. Everything between is in the other files
// of this folder; this one only walks the chunks.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "codec/profile.h"
#include "formats/archive.h"
#include "formats/kv_file.h"
#include "formats/model_facts.h"

namespace kvpack {

enum class Quality : uint8_t { kLossless, kHigh, kMedium, kLow };
std::string_view quality_name(Quality quality);
Result<Quality> quality_from_name(std::string_view name);

// Which transforms the encoder may use; kAuto measures the cost of each per (layer, side).
enum class TransformChoice : uint8_t { kAuto, kNone, kHadamard, kKlt };
Result<TransformChoice> transform_from_name(std::string_view name);

// done and total in tiles (of one pass; `pass` counts from 1 when a search repeats the encode).
using ProgressFn = std::function<void(uint64_t done, uint64_t total, const std::string& phase)>;

struct EncodeOptions {
  Quality quality = Quality::kMedium;
  // At most one of these; each searches the step and overrides `quality`.
  std::optional<double> bits_per_value;  // all bytes of the archive counted
  std::optional<double> ratio;           // stored bytes of the values / archive bytes
  std::optional<double> max_error;       // largest absolute error of any value, after rounding to the stored type
  std::optional<uint32_t> levels;        // of a named quality, instead of its own number; its finest step stays
  TransformChoice transform = TransformChoice::kAuto;
  uint32_t low_rank = 0;  // rank of the low-rank part per tile (0: none)
  uint32_t chunk_tokens = kDefaultChunkTokens;
  // A model's profile: its bases, steps and token weights are used for every plane that it has.
  const Profile* profile = nullptr;
  std::string profile_hash;     // of the file, 32 hexadecimal digits (profile_file.h)
  ByteSpan embedded_profile{};  // the file's bytes, to carry it in the archive; or empty
  // The profile is this context's own (context_profile.h): what decoding needs of it is stored plane by plane.
  bool store_basis = false;
  // [plane of tensor][token * kv_heads + head] relative token weights, instead of the profile's; empty: none (without a
  // profile: all tokens alike). A layer's values take those of its keys.
  std::vector<std::vector<float>> token_weights;
  // [token set] the attention sinks, ascending, if they are known; empty: found by their norms.
  std::vector<std::vector<uint32_t>> sinks;
  // Compares every value with what decoding gives, not a fourth of them: EncodeReport::max_error is known, and the
  // errors told are exact. For a largest error as target it always does.
  bool measure_all = false;
  bool hadamard_rotated = true;  // what KvReadOptions said; recorded
  std::string text;              // the prompt, stored when not empty
  std::string creator;           // "kvpack 0.1.0"
  unsigned threads = 0;          // 0: one per core; the archive is the same for every number
  ProgressFn progress;
  // Where a temporary file goes if the coded tiles exceed 64 MiB; empty: $TMPDIR, else /tmp.
  std::string spill_folder;
};

struct LevelReport {
  uint64_t bytes = 0;             // this level's blocks, their indices included
  uint64_t cumulative_bytes = 0;  // the archive up to and including this level (without the trailer's copy)
  double bits_per_value = 0;      // 8 x cumulative / values
  // sqrt(squared error / squared values) over all finite values, of the rows that decoding up to this level gives; from
  // a sample of the tokens unless all were measured.
  double relative_error = 0;
};

struct EncodeReport {
  uint64_t input_bytes = 0;  // of the source file
  uint64_t archive_bytes = 0;
  uint64_t values = 0;
  uint64_t value_bytes = 0;   // as stored in the source
  double bits_per_value = 0;  // 8 x archive_bytes / values
  double ratio = 0;           // input_bytes / archive_bytes
  std::optional<double> max_error;  // of all values, if all were measured
  double squared_values = 0;  // sum of squares of all finite values
  uint64_t sinks = 0;         // tokens kept exactly
  uint64_t non_finite = 0;    // NaN and infinities kept exactly
  uint64_t raw_tiles = 0;
  uint32_t passes = 1;
  std::vector<LevelReport> levels;
  std::vector<std::string> notes;  // e.g. "no model given: keys kept as they are, the archive is larger"
};

// Encodes `file` into `sink`. `facts` may be null. Besides the file's own bytes and the sink's, memory holds: coded
// tiles up to 64 MiB; per plane what parameters are chosen by (a KLT's matrices, and while a target is searched for 512
// rows of f32); per token 4 bytes and plane, then 1 byte and head. Errors: invalid_argument (options), unsupported, io.
Result<EncodeReport> encode_archive(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options,
                                    ByteSink& sink);

struct IndexRange {
  uint32_t begin = 0;
  uint32_t end = UINT32_MAX;  // exclusive
};

// One chunk to decode, up to a number of its levels.
struct DecodeStep {
  uint32_t chunk = 0;
  uint32_t levels = 1;
};

struct DecodeOptions {
  std::optional<uint32_t> level;  // highest level to use; unset: all
  IndexRange positions;           // tokens whose position lies in the range
  IndexRange layers;
  const Profile* profile = nullptr;  // what ArchiveIdentity::profile_hash names; null if the archive needs none
  unsigned threads = 0;              // 0: one per core
  ProgressFn progress;
  // Instead of all chunks in order at `level`: what to decode next, nullopt at the end. It may wait, for bytes that are
  // still on their way; a chunk may come again with more levels, and what it had is overwritten.
  std::function<std::optional<DecodeStep>()> next_step;
};

// What the identity section says (FORMAT.md, "Identity").
struct ArchiveIdentity {
  std::string creator;
  std::string model_name;
  std::string model_architecture;
  std::string model_fingerprint;  // "" when no model was given
  KvFileFormat source_format = KvFileFormat::kLlamaState;
  std::string source_description;
  std::string source_module;
  uint64_t source_bytes = 0;
  std::string assumptions;
  std::string profile_hash;  // of the profile that decoding needs, "" if none
  std::string quality;       // "lossless", "high", "medium", "low", or "bits 2.5", ...
  bool lossless = false;
  bool has_opaque_state = false;
  bool hadamard_rotated = true;
  double squared_values = 0;         // sum of squares of all values, for relative errors
  std::vector<double> level_errors;  // relative error per level
  uint32_t sliding_window = 0;
  std::vector<std::string> notes;
};
Result<ArchiveIdentity> read_identity(const ArchiveReader& reader);
// The profile that an archive carries; error invalid_argument if it carries none.
Result<Profile> read_embedded_profile(const ArchiveReader& reader);
Result<std::vector<int32_t>> read_tokens(const ArchiveReader& reader);

// The original file again: to the byte if lossless, else the same layout with the decoded values.
Result<Bytes> restore_file(const ArchiveReader& reader, const DecodeOptions& options);
// The same without holding it in memory: every tile is written to its places in `file` as it is decoded. Returns the
// file's bytes. (An npy array in Fortran order, whose values lie singly, is made in memory all the same.)
Result<uint64_t> restore_file(const ArchiveReader& reader, const DecodeOptions& options, PlacedSink& file);

// The selected tokens and layers as contiguous rows in the planes' own dtype (quantized types: f16, un-rotated),
// positions kept; `tokens` receives the token ids of the selected positions where the archive has them.
Result<KvTensor> decode_tensor(const ArchiveReader& reader, const DecodeOptions& options, std::vector<int32_t>* tokens);

}  // namespace kvpack
