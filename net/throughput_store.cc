// SPDX-License-Identifier: Apache-2.0
#include "net/throughput_store.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "formats/byte_io.h"
#include "formats/checksum.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxFileBytes = 4096;

std::vector<std::pair<const char*, double*>> fields_of(ThroughputMemory& memory) {
  return {{"samples", &memory.samples},
          {"idle", &memory.idle},
          {"idle_bytes", &memory.idle_bytes},
          {"bytes_squared", &memory.bytes_squared},
          {"idle_seconds", &memory.idle_seconds},
          {"bytes_seconds", &memory.bytes_seconds},
          {"seconds_squared", &memory.seconds_squared},
          {"bytes", &memory.bytes}};
}

std::filesystem::path file_of(const std::string& folder, const std::string& origin) {
  return std::filesystem::path(folder) / "throughput" / (xxh3_128_hex(as_byte_span(origin)) + ".json");
}

}  // namespace

std::string default_cache_folder() {
  if (const char* folder = std::getenv("XDG_CACHE_HOME"); folder != nullptr && folder[0] == '/') {
    return std::string(folder) + "/kvpack";
  }
  const char* home = std::getenv("HOME");
  return home != nullptr && home[0] != '\0' ? std::string(home) + "/.cache/kvpack" : "";
}

std::optional<ThroughputMemory> load_throughput(const std::string& folder, const std::string& origin) {
  if (folder.empty()) return std::nullopt;
  const auto file = read_whole_file(file_of(folder, origin).string(), kMaxFileBytes);
  if (!file.ok()) return std::nullopt;
  const auto json = nlohmann::json::parse(as_text(*file), nullptr, false);
  if (!json.is_object() || !json.contains("origin") || json["origin"] != origin) return std::nullopt;
  ThroughputMemory memory;
  for (const auto& [name, value] : fields_of(memory)) {
    if (!json.contains(name) || !json[name].is_number()) return std::nullopt;
    *value = json[name].get<double>();
    if (!std::isfinite(*value) || *value < 0) return std::nullopt;
  }
  if (memory.samples <= 0) return std::nullopt;
  return memory;
}

Status save_throughput(const std::string& folder, const std::string& origin, const ThroughputMemory& memory) {
  if (folder.empty()) return io_error("neither XDG_CACHE_HOME nor HOME is set");
  const std::filesystem::path path = file_of(folder, origin);
  std::error_code problem;
  std::filesystem::create_directories(path.parent_path(), problem);
  if (problem) return io_error(path.parent_path().string() + ": " + problem.message());
  nlohmann::ordered_json json = {{"origin", origin}};
  ThroughputMemory copy = memory;
  for (const auto& [name, value] : fields_of(copy)) json[name] = *value;
  KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(path.string(), true));
  KVPACK_RETURN_IF_ERROR(file->write(as_byte_span(json.dump(2) + "\n")));
  return file->commit(false);  // what a power cut takes is learned again
}

}  // namespace kvpack
