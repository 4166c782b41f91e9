// SPDX-License-Identifier: Apache-2.0
// The identity section: what an archive says of itself, as JSON (FORMAT.md, "Identity").
#include "codec/identity.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace kvpack {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxIdentityBytes = 1 << 20;
constexpr size_t kMaxNotes = 64;

std::string text_field(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}
double number_field(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number() ? at->get<double>() : 0.0;
}
bool flag_field(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_boolean() && at->get<bool>();
}
uint64_t count_field(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number_unsigned() ? at->get<uint64_t>() : 0;
}

// A source file's strings may hold anything; JSON holds UTF-8.
std::string dump(const json& object) { return object.dump(1, ' ', false, json::error_handler_t::replace); }

Result<KvFileFormat> format_from_name(const std::string& name) {
  for (const KvFileFormat format : {KvFileFormat::kLlamaState, KvFileFormat::kSafetensors, KvFileFormat::kNpy}) {
    if (name == kv_file_format_name(format)) return format;
  }
  return unsupported(fmt::format("identity: source format '{}'", name));
}

}  // namespace

std::string identity_to_json(const ArchiveIdentity& identity) {
  json object;
  object["creator"] = identity.creator;
  object["model"] = {{"name", identity.model_name},
                     {"architecture", identity.model_architecture},
                     {"fingerprint", identity.model_fingerprint},
                     {"sliding_window", identity.sliding_window}};
  object["source"] = {{"format", std::string(kv_file_format_name(identity.source_format))},
                      {"description", identity.source_description},
                      {"module", identity.source_module},
                      {"bytes", identity.source_bytes},
                      {"opaque_state", identity.has_opaque_state},
                      {"hadamard_rotated", identity.hadamard_rotated},
                      {"assumptions", identity.assumptions}};
  object["codec"] = {{"quality", identity.quality},
                     {"profile", identity.profile_hash},
                     {"lossless", identity.lossless},
                     {"squared_values", identity.squared_values},
                     {"level_errors", identity.level_errors}};
  object["notes"] = identity.notes;
  return dump(object);
}

Result<ArchiveIdentity> identity_from_json(std::string_view text) {
  if (text.size() > kMaxIdentityBytes) return limit_exceeded(fmt::format("identity section has {} bytes", text.size()));
  const json object = json::parse(text, nullptr, false);
  if (!object.is_object()) return corrupt("identity section is not a JSON object");
  const json empty = json::object();
  const auto part = [&](const char* key) -> const json& {
    const auto at = object.find(key);
    return at != object.end() && at->is_object() ? *at : empty;
  };
  ArchiveIdentity identity;
  identity.creator = text_field(object, "creator");
  const json& model = part("model");
  identity.model_name = text_field(model, "name");
  identity.model_architecture = text_field(model, "architecture");
  identity.model_fingerprint = text_field(model, "fingerprint");
  identity.sliding_window = static_cast<uint32_t>(std::min<uint64_t>(UINT32_MAX, count_field(model, "sliding_window")));
  const json& source = part("source");
  KVPACK_ASSIGN_OR_RETURN(identity.source_format, format_from_name(text_field(source, "format")));
  identity.source_description = text_field(source, "description");
  identity.source_module = text_field(source, "module");
  identity.source_bytes = count_field(source, "bytes");
  identity.has_opaque_state = flag_field(source, "opaque_state");
  identity.hadamard_rotated = flag_field(source, "hadamard_rotated");
  identity.assumptions = text_field(source, "assumptions");
  const json& codec = part("codec");
  identity.quality = text_field(codec, "quality");
  identity.profile_hash = text_field(codec, "profile");
  identity.lossless = flag_field(codec, "lossless");
  identity.squared_values = number_field(codec, "squared_values");
  if (const auto errors = codec.find("level_errors"); errors != codec.end() && errors->is_array()) {
    for (const json& error : *errors) {
      if (error.is_number() && identity.level_errors.size() < kMaxLevels)
        identity.level_errors.push_back(error.get<double>());
    }
  }
  if (const auto notes = object.find("notes"); notes != object.end() && notes->is_array()) {
    for (const json& note : *notes) {
      if (note.is_string() && identity.notes.size() < kMaxNotes) identity.notes.push_back(note.get<std::string>());
    }
  }
  return identity;
}

Result<ArchiveIdentity> read_identity(const ArchiveReader& reader) {
  if (!reader.has_section(SectionKind::kIdentity)) return corrupt("the archive has no identity section");
  KVPACK_ASSIGN_OR_RETURN(Bytes raw, reader.section(SectionKind::kIdentity));
  return identity_from_json(as_text(raw));
}

}  // namespace kvpack
