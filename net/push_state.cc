// SPDX-License-Identifier: Apache-2.0
#include "net/push_state.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/byte_io.h"
#include "formats/checksum.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxStateBytes = 4 << 20;

}  // namespace

Result<std::string> push_state_path(const std::string& folder, const std::string& url) {
  std::string base = folder;
  if (base.empty()) {
    const char* cache = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    base = cache != nullptr && *cache == '/' ? cache : std::string(home == nullptr ? "/tmp" : home) + "/.cache";
    base += "/kvpack/push";
  }
  std::error_code error;
  std::filesystem::create_directories(base, error);
  if (error) return io_error(fmt::format("{}: cannot make the folder: {}", base, error.message()));
  return fmt::format("{}/{}.json", base, xxh3_128_hex(as_byte_span(url)));
}

std::optional<PushState> read_push_state(const std::string& path) {
  const auto bytes = read_whole_file(path, kMaxStateBytes);
  if (!bytes.ok()) return std::nullopt;
  const auto json = nlohmann::json::parse(as_text(*bytes), nullptr, false);
  if (!json.is_object()) return std::nullopt;
  PushState state;
  const auto text = [&json](const char* key) {
    return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
  };
  const auto number = [&json](const char* key) {
    return json.contains(key) && json[key].is_number_unsigned() ? json[key].get<uint64_t>() : 0;
  };
  state.url = text("url");
  state.archive_id = text("archive_id");
  state.upload_id = text("upload_id");
  state.file_bytes = number("file_bytes");
  state.part_bytes = number("part_bytes");
  if (state.part_bytes == 0 || !json.contains("parts") || !json["parts"].is_array()) return std::nullopt;
  for (const auto& part : json["parts"]) {
    const bool is_part = part.is_array() && part.size() == 2 && part[0].is_number_unsigned() && part[1].is_string();
    if (!is_part) return std::nullopt;
    const auto part_number = part[0].get<uint64_t>();
    if (part_number == 0 || (part_number - 1) > state.file_bytes / state.part_bytes) return std::nullopt;
    state.part_etags[static_cast<uint32_t>(part_number)] = part[1].get<std::string>();
  }
  return state;
}

Status write_push_state(const std::string& path, const PushState& state) {
  nlohmann::ordered_json json = {{"url", state.url},
                                 {"archive_id", state.archive_id},
                                 {"file_bytes", state.file_bytes},
                                 {"part_bytes", state.part_bytes},
                                 {"upload_id", state.upload_id},
                                 {"parts", nlohmann::ordered_json::array()}};
  for (const auto& [number, etag] : state.part_etags) json["parts"].push_back({number, etag});
  KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(path, true));
  KVPACK_RETURN_IF_ERROR(file->write(as_byte_span(json.dump(1) + "\n")));
  return file->commit();
}

}  // namespace kvpack
