// SPDX-License-Identifier: Apache-2.0
// What `blend` reads: chunks, archives or KV files of one model, and the query as tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/blend.h"
#include "cli/profile_lookup.h"
#include "net/engine/blend_context.h"
#include "net/engine/blend_refinement.h"
#include "net/engine/engine.h"
#include "net/partial_archive.h"

namespace kvpack::cli {

// A context's chunks, decoded: archives up to their last level, or with --refine at the base first.
class BlendInputs {
 public:
  // Errors name the file; invalid_argument for one of another model.
  static Result<BlendInputs> read(const BlendArguments& arguments, const ModelFacts& facts);

  const std::vector<BlendChunk>& chunks() const { return chunks_; }
  // Brings further levels of the archive chunks that `score` [token of the context's chunks] finds worth most, --refine
  // of all their bytes, and puts what they make of the tokens into `context`.
  Status refine(const ModelFacts& facts, const JoinOptions& join, std::span<const float> score, JoinedContext& context);

  uint64_t bytes_read() const;      // of the archives
  uint64_t archive_bytes() const;   // of all of them
  uint32_t archive_chunks() const;  // that have levels above the base
  uint32_t refined_chunks() const;  // of these, so many are decoded above it

 private:
  struct Archive {
    size_t chunk = 0;  // of the context
    std::unique_ptr<PartialArchive> file;
    std::optional<LoadedProfile> profile;
    bool reorder_keys = false;
    ChunkLevels levels;
  };
  Status add_archive(const BlendArguments& arguments, const std::string& path, const ModelFacts& facts);
  // Brings what is missing of these levels, and decodes.
  Result<BlendChunk> decode(Archive& archive, const std::string& name, const ChunkLevels& levels) const;

  std::optional<double> refine_;
  uint32_t threads_ = 0;
  std::vector<BlendChunk> chunks_;
  std::vector<Archive> archives_;
};

// --query-tokens, or --query tokenized by `engine` (null: by libllama, if this build has it), without `bos` in front.
Result<std::vector<int32_t>> read_query(const BlendArguments& arguments, std::optional<int32_t> bos, Engine* engine);

// Unset: "auto". Errors: invalid_argument.
Result<std::optional<double>> parse_blend_ratio(const std::string& text);

}  // namespace kvpack::cli
