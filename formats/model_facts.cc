// SPDX-License-Identifier: Apache-2.0
#include "formats/model_facts.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "formats/byte_io.h"
#include "formats/gguf.h"
#include "formats/json_text.h"
#include "formats/model_sources.h"

namespace kvpack {

int32_t intern_rope(ModelFacts& facts, const Rope& rope) {
  for (size_t i = 0; i < facts.ropes.size(); ++i) {
    if (facts.ropes[i] == rope) return static_cast<int32_t>(i);
  }
  facts.ropes.push_back(rope);
  return static_cast<int32_t>(facts.ropes.size() - 1);
}

Result<uint32_t> bounded(uint64_t value, uint64_t low, uint64_t high, std::string_view what) {
  if (value < low || value > high || value > UINT32_MAX) {
    return corrupt(fmt::format("{}: {}, expected {} to {}", what, value, low, high));
  }
  return static_cast<uint32_t>(value);
}

namespace {

constexpr std::string_view kAccepted =
    "accepted are a GGUF file, a transformers config.json (or its folder) and kvpack's model.json";

bool is_folder(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

Result<ModelFacts> facts_from_json(std::string_view text) {
  KVPACK_ASSIGN_OR_RETURN(Json json, parse_json(text, kMaxModelJsonBytes));
  if (json.is_object() && json.contains("kvpack_model")) return model_facts_from_json(text);
  if (json.is_object() && json.contains("model_type")) return model_facts_from_config(text);
  return unsupported(fmt::format("JSON with neither \"model_type\" nor \"kvpack_model\"; {}", kAccepted));
}

Result<ModelFacts> facts_from_source(ByteSource& source) {
  KVPACK_ASSIGN_OR_RETURN(Bytes start, source.read(0, std::min<uint64_t>(source.size(), 256)));
  if (start.empty()) return truncated(fmt::format("an empty file; {}", kAccepted));
  if (looks_like_gguf(start)) return model_facts_from_gguf(source);
  const std::string_view text = as_text(start);
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] != '{') {
    return unsupported(fmt::format("neither GGUF nor JSON: it begins with bytes 0x{:02x} 0x{:02x}; {}",
                                   static_cast<unsigned>(start[0]),
                                   static_cast<unsigned>(start[start.size() > 1 ? 1 : 0]), kAccepted));
  }
  if (source.size() > kMaxModelJsonBytes) {
    return limit_exceeded(fmt::format("{} bytes of JSON, at most {}", source.size(), kMaxModelJsonBytes));
  }
  KVPACK_ASSIGN_OR_RETURN(Bytes whole, source.read(0, source.size()));
  return facts_from_json(as_text(whole));
}

}  // namespace

Result<ModelFacts> read_model_facts(const std::string& path) {
  const std::string file = is_folder(path) ? path + "/config.json" : path;
  KVPACK_ASSIGN_OR_RETURN(auto source, open_file_source(file));
  auto facts = facts_from_source(*source);
  if (!facts.ok()) return facts.error().within(file);
  return facts;
}

}  // namespace kvpack
