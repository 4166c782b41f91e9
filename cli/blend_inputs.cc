// SPDX-License-Identifier: Apache-2.0
#include "cli/blend_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "cli/input_file.h"
#include "cli/net_options.h"
#include "formats/key_order.h"
#include "net/engine/blend.h"
#ifdef KVPACK_HAVE_LIBLLAMA
#include "net/engine/libllama_vocabulary.h"
#endif

namespace kvpack::cli {
namespace {

Result<bool> is_archive(const std::string& path) {
  if (path.find("://") != std::string::npos) return true;
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_file_source(path));
  KVPACK_ASSIGN_OR_RETURN(const Bytes head, source->read(0, std::min<uint64_t>(64, source->size())));
  return looks_like_archive(head);
}

Result<BlendChunk> read_file_chunk(const std::string& path, const ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(KvFile file, read_kv_input(path, &facts, true));
  if (file.has_opaque_state) return unsupported("holds recurrent state, which is of its own text alone");
  if (key_order_differs(facts.architecture, file.format, KvFileFormat::kLlamaState)) {
    KVPACK_ASSIGN_OR_RETURN(file.tensor, with_key_order_of(KvFileFormat::kLlamaState, file.tensor));
  }
  return BlendChunk{path, std::move(file.tensor), std::move(file.tokens)};
}

Result<std::vector<int32_t>> parse_tokens(const std::string& text) {
  std::vector<int32_t> tokens;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int32_t token = 0;
    const auto [next, error] = std::from_chars(at, end, token);
    if (error != std::errc() || token < 0 || (next < end && *next != ',')) {
      return invalid_argument(fmt::format("--query-tokens: '{}' is no list of token ids (1,2,3)", text));
    }
    tokens.push_back(token);
    at = next + 1;
  }
  return tokens;
}

Result<std::vector<int32_t>> tokenize(const BlendArguments& arguments, Engine* engine) {
  if (engine != nullptr) return engine->tokenize(arguments.query, PromptPart::kContinuation);
#ifdef KVPACK_HAVE_LIBLLAMA
  return engine::tokenize_for(arguments.model, arguments.query);
#else
  return with_hint(unsupported("--query: this build has no libllama to tokenize it with"),
                   "give token ids by --query-tokens, or a llama-server by --engine");
#endif
}

}  // namespace

Result<BlendChunk> BlendInputs::decode(Archive& archive, const std::string& name, const ChunkLevels& levels) const {
  KVPACK_RETURN_IF_ERROR(archive.file->bring(steps_between(archive.levels, levels)));
  archive.levels = levels;
  DecodeOptions options;
  options.threads = threads_;
  if (archive.profile) options.profile = &archive.profile->profile;
  BlendChunk chunk{name, {}, {}};
  KVPACK_ASSIGN_OR_RETURN(chunk.tensor, decode_at(archive.file->reader(), levels, options, &chunk.tokens));
  if (archive.reorder_keys) {
    KVPACK_ASSIGN_OR_RETURN(chunk.tensor, with_key_order_of(KvFileFormat::kLlamaState, chunk.tensor));
  }
  return chunk;
}

Status BlendInputs::add_archive(const BlendArguments& arguments, const std::string& path, const ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(const RangeSourceOptions network, net_options(arguments.net));
  Archive archive;
  archive.chunk = chunks_.size();
  KVPACK_ASSIGN_OR_RETURN(archive.file, PartialArchive::open(path, network));
  const ArchiveReader& reader = archive.file->reader();
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  if (!identity.model_fingerprint.empty() && identity.model_fingerprint != facts.fingerprint) {
    return with_hint(invalid_argument(fmt::format("made with the model {} ({}), not with {} ({})", identity.model_name,
                                                  identity.model_fingerprint, facts.name, facts.fingerprint)),
                     "chunks are computed again with --model, which must be the file they were encoded with");
  }
  if (identity.has_opaque_state) return unsupported("holds recurrent state, which is of its own text alone");
  KVPACK_ASSIGN_OR_RETURN(archive.profile,
                          find_profile_for_archive(arguments.profile, arguments.model, reader, identity));
  archive.reorder_keys = key_order_differs(facts.architecture, identity.source_format, KvFileFormat::kLlamaState);
  const Directory& directory = reader.directory();
  archive.levels.assign(directory.chunks.size(), 0);
  const auto levels = static_cast<uint8_t>(refine_ ? 1 : directory.levels);
  KVPACK_ASSIGN_OR_RETURN(BlendChunk chunk, decode(archive, path, ChunkLevels(directory.chunks.size(), levels)));
  chunks_.push_back(std::move(chunk));
  archives_.push_back(std::move(archive));
  return {};
}

Result<BlendInputs> BlendInputs::read(const BlendArguments& arguments, const ModelFacts& facts) {
  BlendInputs inputs;
  if (arguments.refine && !(*arguments.refine >= 0 && *arguments.refine <= 1)) {
    return invalid_argument(fmt::format("--refine {}: a share from 0 to 1", *arguments.refine));
  }
  // All levels of everything need no choice.
  if (arguments.refine && *arguments.refine < 1) inputs.refine_ = arguments.refine;
  inputs.threads_ = arguments.threads;
  for (const std::string& path : arguments.inputs) {
    const auto archive = is_archive(path);
    if (!archive.ok()) return about_file(archive.error(), path);
    if (*archive) {
      const Status added = inputs.add_archive(arguments, path, facts);
      if (!added.ok()) return about_file(added.error(), path);
      continue;
    }
    auto chunk = read_file_chunk(path, facts);
    if (!chunk.ok()) return about_file(chunk.error(), path);
    inputs.chunks_.push_back(std::move(*chunk));
  }
  return inputs;
}

Status BlendInputs::refine(const ModelFacts& facts, const JoinOptions& join, std::span<const float> score,
                           JoinedContext& context) {
  if (!refine_) return {};
  std::vector<ContextCosts> costs;
  std::vector<std::vector<double>> scores;
  for (const Archive& archive : archives_) {
    const Directory& directory = archive.file->reader().directory();
    const uint32_t begin = context.chunks()[archive.chunk];
    const uint32_t end = context.chunks()[archive.chunk + 1];
    const uint32_t skipped = archive.chunk == 0 ? 0 : join.shared_tokens;
    costs.push_back(context_costs(directory));
    if (costs.back().total_tokens() != skipped + end - begin) {
      return about_file(unsupported("some of its tokens have no place in a prompt: their positions are below 0"),
                        chunks_[archive.chunk].name);
    }
    scores.push_back(chunk_scores(directory.chunks, skipped, score.subspan(begin, end - begin)));
  }
  const std::vector<ChunkLevels> levels = choose_levels(costs, scores, *refine_);
  for (size_t a = 0; a < archives_.size(); ++a) {
    if (levels[a] == archives_[a].levels) continue;
    BlendChunk& chunk = chunks_[archives_[a].chunk];
    auto finer = decode(archives_[a], chunk.name, levels[a]);
    if (!finer.ok()) return about_file(finer.error(), chunk.name);
    chunk = std::move(*finer);
    KVPACK_RETURN_IF_ERROR(context.replace(archives_[a].chunk, chunk, facts, join));
  }
  return {};
}

uint64_t BlendInputs::bytes_read() const {
  uint64_t bytes = 0;
  for (const Archive& archive : archives_) bytes += archive.file->bytes_read();
  return bytes;
}

uint64_t BlendInputs::archive_bytes() const {
  uint64_t bytes = 0;
  for (const Archive& archive : archives_) bytes += archive.file->reader().file_bytes();
  return bytes;
}

uint32_t BlendInputs::archive_chunks() const {
  uint32_t count = 0;
  for (const Archive& archive : archives_) {
    if (archive.file->reader().directory().levels > 1) count += static_cast<uint32_t>(archive.levels.size());
  }
  return count;
}

uint32_t BlendInputs::refined_chunks() const {
  uint32_t count = 0;
  for (const Archive& archive : archives_) {
    count += static_cast<uint32_t>(std::ranges::count_if(archive.levels, [](uint8_t levels) { return levels > 1; }));
  }
  return count;
}

Result<std::vector<int32_t>> read_query(const BlendArguments& arguments, std::optional<int32_t> bos, Engine* engine) {
  if (!arguments.query_tokens.empty()) return parse_tokens(arguments.query_tokens);
  if (arguments.query.empty()) return std::vector<int32_t>();
  KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, tokenize(arguments, engine));
  // A server may put it in front of every text; a text that spells it out would be in the middle of the context.
  if (engine != nullptr && !tokens.empty() && bos && tokens.front() == *bos) tokens.erase(tokens.begin());
  return tokens;
}

Result<std::optional<double>> parse_blend_ratio(const std::string& text) {
  if (text.empty()) return std::optional<double>(kBlendRatio);
  if (text == "auto") return std::optional<double>();
  double ratio = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ratio);
  if (error != std::errc() || end != text.data() + text.size() || !(ratio >= 0 && ratio <= 1)) {
    return invalid_argument(fmt::format("--ratio '{}': a share from 0 to 1, or auto", text));
  }
  return std::optional<double>(ratio);
}

}  // namespace kvpack::cli
