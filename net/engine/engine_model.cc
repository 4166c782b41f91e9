// SPDX-License-Identifier: Apache-2.0
#include "net/engine/engine_model.h"

#include <fmt/format.h>

#include <filesystem>
#include <variant>

#include "formats/gguf.h"

namespace kvpack {
namespace {

// The numbers that an engine tells of its model, read from a GGUF; all 0 if the file is none.
Result<EngineFacts> numbers_of(const std::string& path) {
  EngineFacts numbers;
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_file_source(path));
  KVPACK_ASSIGN_OR_RETURN(const Bytes head, source->read(0, std::min<uint64_t>(source->size(), 4)));
  if (!looks_like_gguf(head)) return numbers;
  KVPACK_ASSIGN_OR_RETURN(const Gguf gguf, read_gguf(*source));
  KVPACK_ASSIGN_OR_RETURN(const auto architecture, gguf.find_string("general.architecture"));
  KVPACK_ASSIGN_OR_RETURN(const auto embedding, gguf.find_uint(architecture.value_or("") + ".embedding_length"));
  numbers.embedding = static_cast<uint32_t>(embedding.value_or(0));
  const auto vocabulary = gguf.values.find("tokenizer.ggml.tokens");
  if (vocabulary != gguf.values.end() && std::holds_alternative<GgufSkipped>(vocabulary->second)) {
    numbers.vocabulary = static_cast<uint32_t>(std::get<GgufSkipped>(vocabulary->second).count);
  }
  KVPACK_ASSIGN_OR_RETURN(const auto parts, gguf.find_uint("split.count"));
  if (parts.value_or(1) > 1) return numbers;  // the others hold parameters, too
  for (const auto& [name, tensor] : gguf.tensors) numbers.parameters += tensor.values;
  return numbers;
}

Status check_numbers(const std::string& path, const std::string& engine_name, const EngineFacts& engine) {
  KVPACK_ASSIGN_OR_RETURN(const EngineFacts file, numbers_of(path));
  const struct {
    const char* what;
    uint64_t ours, theirs;
  } numbers[] = {{"token ids", file.vocabulary, engine.vocabulary},
                 {"values per embedding", file.embedding, engine.embedding},
                 {"parameters", file.parameters, engine.parameters}};
  for (const auto& number : numbers) {
    if (number.ours == 0 || number.theirs == 0 || number.ours == number.theirs) continue;
    return invalid_argument(fmt::format("{}: has {} {}, but what {} runs ({}) has {}", path, number.ours, number.what,
                                        engine_name, engine.model_path, number.theirs));
  }
  return {};
}

// Only a regular file: the path comes from a server.
std::optional<ModelFacts> facts_seen_from_here(const std::string& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  auto facts = read_model_facts(path);
  return facts.ok() ? std::optional(std::move(*facts)) : std::nullopt;
}

bool same_kind(const std::string& a, const std::string& b) {
  return a.substr(0, a.find(':')) == b.substr(0, b.find(':'));
}

std::string named(const std::string& name, const std::string& fingerprint) {
  return fmt::format("{} ({})", name.empty() ? "a model without a name" : name, fingerprint);
}

}  // namespace

Result<std::optional<EngineModel>> find_engine_model(Engine& engine, const EngineFacts& facts,
                                                     const std::string& given) {
  std::optional<ModelFacts> seen = facts_seen_from_here(facts.model_path);
  EngineModel model;
  if (given.empty()) {
    if (!seen) return std::optional<EngineModel>();
    model = {facts.model_path, std::move(*seen)};
  } else {
    auto read = read_model_facts(given);
    if (!read.ok()) {
      const bool names_it = read.error().message.starts_with(given);
      return names_it ? read.error() : read.error().within(given);
    }
    if (seen && same_kind(seen->fingerprint, read->fingerprint) && seen->fingerprint != read->fingerprint) {
      return invalid_argument(fmt::format("{}: is {}, but {} runs {}: {}", given, named(read->name, read->fingerprint),
                                          engine.name(), facts.model_path, named(seen->name, seen->fingerprint)));
    }
    model = {given, std::move(*read)};
  }
  KVPACK_RETURN_IF_ERROR(check_numbers(model.path, engine.name(), facts));
  return std::optional<EngineModel>(std::move(model));
}

Result<ModelMatch> match_model(const ContextModel& context, const std::optional<EngineModel>& engine) {
  if (context.fingerprint.empty() || !engine || !same_kind(context.fingerprint, engine->facts.fingerprint)) {
    return ModelMatch::kUnknown;
  }
  if (context.fingerprint == engine->facts.fingerprint) return ModelMatch::kSame;
  return invalid_argument(fmt::format("the context is of {}, the engine runs {}: {}",
                                      named(context.name, context.fingerprint), engine->path,
                                      named(engine->facts.name, engine->facts.fingerprint)));
}

}  // namespace kvpack
