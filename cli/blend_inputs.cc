// SPDX-License-Identifier: Apache-2.0
#include "cli/blend_inputs.h"

#include <fmt/format.h>

#include <charconv>

#include "cli/input_file.h"
#include "cli/profile_lookup.h"
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

Result<BlendChunk> read_archive_chunk(const BlendArguments& arguments, const std::string& path,
                                      const ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(const auto input, ArchiveInput::open(path));
  const ArchiveReader& reader = input->reader();
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  if (!identity.model_fingerprint.empty() && identity.model_fingerprint != facts.fingerprint) {
    return with_hint(invalid_argument(fmt::format("made with the model {} ({}), not with {} ({})", identity.model_name,
                                                  identity.model_fingerprint, facts.name, facts.fingerprint)),
                     "chunks are computed again with --model, which must be the file they were encoded with");
  }
  if (identity.has_opaque_state) return unsupported("holds recurrent state, which is of its own text alone");
  KVPACK_ASSIGN_OR_RETURN(const std::optional<LoadedProfile> profile,
                          find_profile_for_archive(arguments.profile, arguments.model, reader, identity));
  DecodeOptions options;
  options.threads = arguments.threads;
  if (profile) options.profile = &profile->profile;
  BlendChunk chunk{path, {}, {}};
  KVPACK_ASSIGN_OR_RETURN(chunk.tensor, decode_tensor(reader, options, &chunk.tokens));
  if (key_order_differs(facts.architecture, identity.source_format, KvFileFormat::kLlamaState)) {
    KVPACK_ASSIGN_OR_RETURN(chunk.tensor, with_key_order_of(KvFileFormat::kLlamaState, chunk.tensor));
  }
  return chunk;
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

Result<std::vector<BlendChunk>> read_chunks(const BlendArguments& arguments, const ModelFacts& facts) {
  std::vector<BlendChunk> chunks;
  for (const std::string& path : arguments.inputs) {
    const auto archive = is_archive(path);
    if (!archive.ok()) return about_file(archive.error(), path);
    auto chunk = *archive ? read_archive_chunk(arguments, path, facts) : read_file_chunk(path, facts);
    if (!chunk.ok()) return about_file(chunk.error(), path);
    chunks.push_back(std::move(*chunk));
  }
  return chunks;
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
