// SPDX-License-Identifier: Apache-2.0
#include "cli/load_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/console.h"
#include "cli/guard_cell.h"
#include "cli/quantities.h"
#include "net/engine/cache_layout.h"

namespace kvpack::cli {
namespace {

Result<std::vector<int32_t>> prompt_tokens(const ArchiveReader& reader) {
  if (!reader.has_section(SectionKind::kTokens)) {
    return with_hint(invalid_argument("the archive holds no token ids, by which the server finds what it has"),
                     "kvpack decode turns it into a file all the same");
  }
  KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, read_tokens(reader));
  if (tokens.empty()) return invalid_argument("the archive's list of token ids is empty");
  return tokens;
}

// What the slot has in front of a context that does not begin at position 0. (One that begins there although it has
// the ids of all tokens is a sliding window.)
Result<std::vector<int32_t>> front_tokens(const ArchiveReader& reader, size_t tokens, LlamaServer& engine) {
  const auto& sets = reader.shape().token_sets;
  const bool range = sets.size() == 1 && sets[0].positions.size() == tokens && sets[0].positions[0] > 0;
  if (!range) return std::vector<int32_t>();
  const auto begin = static_cast<uint32_t>(sets[0].positions[0]);
  const auto refused = [&](const Error& error) {
    return with_hint(error.within(fmt::format("the context begins at position {}, behind others", begin)),
                     "the slot has to hold those in front of it");
  };
  const auto state = engine.export_range({0, begin});
  if (!state.ok()) return refused(state.error());
  const auto file = read_kv_file(*state, {});
  if (!file.ok()) return refused(file.error());
  return file->tokens;
}

Status check_sizes(std::span<const int32_t> tokens, const EngineFacts& facts, const LlamaServer& engine) {
  if (facts.context_tokens > 0 && tokens.size() >= facts.context_tokens) {
    return with_hint(
        invalid_argument(fmt::format("the context has {} tokens, a slot of {} takes {}, of which one has "
                                     "to be free",
                                     grouped(tokens.size()), engine.name(), grouped(facts.context_tokens))),
        "start it with a larger context (-c; it is shared among -np slots)");
  }
  const auto [least, most] = std::minmax_element(tokens.begin(), tokens.end());
  if (*least >= 0 && (facts.vocabulary == 0 || static_cast<uint32_t>(*most) < facts.vocabulary)) return {};
  return invalid_argument(fmt::format("the context has token id {}, and the model of {} knows 0 to {}",
                                      *least < 0 ? *least : *most, engine.name(), facts.vocabulary - 1));
}

Status check_model(const ArchiveIdentity& identity, LlamaServer& engine, const EngineFacts& facts,
                   const LoadCheck& check, std::optional<EngineModel>& model) {
  KVPACK_ASSIGN_OR_RETURN(model, find_engine_model(engine, facts, check.model));
  KVPACK_ASSIGN_OR_RETURN(const ModelMatch match,
                          match_model({identity.model_name, identity.model_fingerprint}, model));
  if (match == ModelMatch::kSame || check.trust_model) return {};
  const std::string unknown = "nobody can tell whether the context is of the model that the server runs: ";
  if (identity.model_fingerprint.empty()) {
    return with_hint(invalid_argument(unknown + "it was encoded without --model"),
                     "--trust-model loads it all the same, if all shapes fit");
  }
  if (!model) {
    return with_hint(
        invalid_argument(fmt::format("{}its file '{}' is not to be seen from here", unknown, facts.model_path)),
        "--model names the file; --trust-model does without");
  }
  return with_hint(
      invalid_argument(fmt::format("{}it was encoded with a model file of another kind ({}), {} is {}", unknown,
                                   identity.model_fingerprint, model->path, model->facts.fingerprint)),
      "--trust-model loads it all the same, if all shapes fit");
}

// A state of the slot's own shows how the engine lays its cache out. An empty slot gets one token for that, and is
// emptied again.
Result<CacheLayout> layout_of(LlamaServer& engine, int32_t some_token, const ModelFacts* facts) {
  const KvReadOptions read{facts, true};
  KVPACK_ASSIGN_OR_RETURN(auto state, engine.export_kv());
  auto file = read_kv_file(std::move(state), read);
  if (!file.ok()) return file.error().within("the state that " + engine.name() + " saves");
  if (!file->tokens.empty()) return cache_layout_of(*file);
  KVPACK_RETURN_IF_ERROR(engine.prefill(std::span(&some_token, 1)));
  auto probe = engine.export_kv();
  KVPACK_RETURN_IF_ERROR(engine.erase_kv());
  if (!probe.ok()) return probe.error();
  file = read_kv_file(std::move(*probe), read);
  if (!file.ok()) return file.error().within("the state that " + engine.name() + " saves");
  return cache_layout_of(*file);
}

void apply(const LlamaLayout& layout, DecodeArguments& decoding) {
  decoding.streams = layout.streams;
  decoding.stream = layout.stream;
  if (layout.transposed_v) decoding.v_layout = *layout.transposed_v ? "transposed" : "row";
  if (layout.key_type) decoding.cache_type_k = dtype_name(*layout.key_type);
  if (layout.value_type) decoding.cache_type_v = dtype_name(*layout.value_type);
}

}  // namespace

Result<LoadTarget> check_load(const ArchiveReader& reader, LlamaServer& engine, const LoadCheck& check,
                              DecodeArguments base) {
  LoadTarget target;
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  KVPACK_ASSIGN_OR_RETURN(target.tokens, prompt_tokens(reader));
  KVPACK_ASSIGN_OR_RETURN(const EngineFacts facts, engine.facts());
  std::optional<EngineModel> model;
  KVPACK_RETURN_IF_ERROR(check_model(identity, engine, facts, check, model));
  KVPACK_ASSIGN_OR_RETURN(target.front, front_tokens(reader, target.tokens.size(), engine));
  std::vector<int32_t> all = target.front;
  all.insert(all.end(), target.tokens.begin(), target.tokens.end());
  KVPACK_RETURN_IF_ERROR(check_sizes(all, facts, engine));
  KVPACK_ASSIGN_OR_RETURN(const CacheLayout ours, cache_layout_of(reader, identity.source_format));
  KVPACK_ASSIGN_OR_RETURN(const CacheLayout theirs,
                          layout_of(engine, target.tokens[0], model ? &model->facts : nullptr));
  const auto layout = layout_for_engine(ours, theirs, check.convert);
  if (!layout.ok()) {
    const bool types = !check.convert && layout_for_engine(ours, theirs, true).ok();
    return types ? with_hint(layout.error(), "--convert requantizes it; or start the server with the other type")
                 : layout.error();
  }
  target.decoding = std::move(base);
  if (identity.source_format != KvFileFormat::kLlamaState) target.decoding.to = "llama";
  apply(*layout, target.decoding);
  // Without it llama-server drops a sliding-window context (guard_cell.h).
  target.decoding.guard_cell = guard_cell_offer(reader, identity).possible;
  if (target.decoding.model.empty() && model) target.decoding.model = model->path;
  target.has_opaque_state = identity.has_opaque_state;
  if (layout->key_type || layout->value_type) {
    target.notes.push_back(fmt::format("stored as {} (K) and {} (V), as the server's cache",
                                       dtype_name(layout->key_type.value_or(theirs.planes.front().dtype)),
                                       dtype_name(layout->value_type.value_or(theirs.planes.back().dtype))));
  }
  return target;
}

Status check_engine_takes(LlamaServer& engine, const std::string& model, std::span<const int32_t> tokens) {
  KVPACK_ASSIGN_OR_RETURN(const EngineFacts facts, engine.facts());
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const auto found, find_engine_model(engine, facts, model));
  return check_sizes(tokens, facts, engine);
}

Result<LlamaLayout> layout_in_engine(LlamaServer& engine, const KvTensor& tensor, int32_t first_token,
                                     const ModelFacts& facts) {
  KVPACK_ASSIGN_OR_RETURN(const CacheLayout theirs, layout_of(engine, first_token, &facts));
  KVPACK_ASSIGN_OR_RETURN(LlamaLayout layout, layout_for_engine(cache_layout_of(tensor), theirs, true));
  layout.packed_payload = true;
  return layout;
}

}  // namespace kvpack::cli
