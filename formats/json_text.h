// SPDX-License-Identifier: Apache-2.0
// JSON from files: parsed without exceptions, bounded in size and depth, duplicate keys refused, fields typed.
// Only .cc files of this folder include it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "formats/result.h"

namespace kvpack {

using Json = nlohmann::json;

// Errors: limit (longer than `max_bytes`, or nested more than 64 deep), corrupt (not JSON, a key twice: named).
Result<Json> parse_json(std::string_view text, uint64_t max_bytes);

// Field `name` of `object`; unset if absent or null. `corrupt` names the field if its type or range is wrong.
Result<std::optional<uint32_t>> json_u32(const Json& object, const char* name, uint64_t low, uint64_t high);
Result<std::optional<double>> json_number(const Json& object, const char* name);  // finite
Result<std::optional<std::string>> json_string(const Json& object, const char* name);
Result<std::optional<bool>> json_bool(const Json& object, const char* name);
// Pointers into `object`; null if absent or null.
Result<const Json*> json_array(const Json& object, const char* name);
Result<const Json*> json_object(const Json& object, const char* name);

// Text that never throws: invalid UTF-8 is replaced.
std::string dump_json(const Json& json, int indent = -1);

}  // namespace kvpack
