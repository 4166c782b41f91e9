// SPDX-License-Identifier: Apache-2.0
#include "formats/json_text.h"

#include <fmt/format.h>

#include <cmath>
#include <set>
#include <vector>

namespace kvpack {
namespace {

constexpr int kMaxDepth = 64;

// Watches the parser's events; the first objection is kept and the rest of the text discarded.
class Watcher {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (failed_) return false;
    if (depth > kMaxDepth) return fail(limit_exceeded(fmt::format("JSON nested more than {} deep", kMaxDepth)));
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        return fail(corrupt(fmt::format("JSON key '{}' a second time in one object", key)));
      }
    }
    return true;
  }
  const std::optional<Error>& failed() const { return failed_; }

 private:
  bool fail(Error error) {
    failed_ = std::move(error);
    return false;
  }
  std::vector<std::set<std::string>> keys_;
  std::optional<Error> failed_;
};

const Json* find_field(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Error wrong_field(const char* name, std::string_view expected, const Json& found) {
  return corrupt(fmt::format("JSON field \"{}\": expected {}, found {}", name, expected, found.type_name()));
}

}  // namespace

Result<Json> parse_json(std::string_view text, uint64_t max_bytes) {
  if (text.size() > max_bytes) {
    return limit_exceeded(fmt::format("{} bytes of JSON, at most {}", text.size(), max_bytes));
  }
  Watcher watcher;
  Json json = Json::parse(text, std::ref(watcher), false);
  if (watcher.failed()) return *watcher.failed();
  if (json.is_discarded()) return corrupt("not valid JSON");
  return json;
}

Result<std::optional<uint32_t>> json_u32(const Json& object, const char* name, uint64_t low, uint64_t high) {
  const Json* field = find_field(object, name);
  if (field == nullptr) return std::optional<uint32_t>();
  if (!field->is_number_unsigned()) return wrong_field(name, "a whole number", *field);
  const uint64_t value = field->get<uint64_t>();
  if (value < low || value > high || value > UINT32_MAX) {
    return corrupt(fmt::format("JSON field \"{}\": {}, expected {} to {}", name, value, low, high));
  }
  return std::optional(static_cast<uint32_t>(value));
}

Result<std::optional<double>> json_number(const Json& object, const char* name) {
  const Json* field = find_field(object, name);
  if (field == nullptr) return std::optional<double>();
  if (!field->is_number() || !std::isfinite(field->get<double>())) return wrong_field(name, "a number", *field);
  return std::optional(field->get<double>());
}

Result<std::optional<std::string>> json_string(const Json& object, const char* name) {
  const Json* field = find_field(object, name);
  if (field == nullptr) return std::optional<std::string>();
  if (!field->is_string()) return wrong_field(name, "a string", *field);
  return std::optional(field->get<std::string>());
}

Result<std::optional<bool>> json_bool(const Json& object, const char* name) {
  const Json* field = find_field(object, name);
  if (field == nullptr) return std::optional<bool>();
  if (!field->is_boolean()) return wrong_field(name, "true or false", *field);
  return std::optional(field->get<bool>());
}

Result<const Json*> json_array(const Json& object, const char* name) {
  const Json* field = find_field(object, name);
  if (field != nullptr && !field->is_array()) return wrong_field(name, "an array", *field);
  return field;
}

Result<const Json*> json_object(const Json& object, const char* name) {
  const Json* field = find_field(object, name);
  if (field != nullptr && !field->is_object()) return wrong_field(name, "an object", *field);
  return field;
}

std::string dump_json(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace kvpack
