// SPDX-License-Identifier: Apache-2.0
// The real files of samples/, the facts of the model that wrote those of samples/llama, and KV files rebuilt.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/byte_io.h"
#include "formats/kv_file.h"
#include "formats/kv_planes.h"
#include "formats/model_facts.h"
#include "tests/must.h"

namespace kvpack::test {

inline std::string sample_path(const std::string& name) { return std::string(KVPACK_SAMPLES_DIR "/") + name; }

inline Bytes read_sample(const std::string& name) { return must(read_whole_file(sample_path(name))); }

inline ModelFacts nano_facts() { return must(read_model_facts(sample_path("nano-f16.gguf"))); }

// "llama/x.bin", "zoo/y.bin", ...: every state file of a folder of samples/.
inline std::vector<std::string> samples_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(sample_path(folder))) {
    if (entry.path().extension() == ".bin") names.push_back(folder + "/" + entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

inline KvFile read_kv(Bytes bytes, const ModelFacts* facts = nullptr) {
  KvReadOptions options;
  options.facts = facts;
  return must(read_kv_file(std::move(bytes), options));
}

// The file rebuilt from its container and its values' stored bytes.
inline Bytes rebuild(const KvFile& file) {
  KvFileImage image = must(open_container(file.format, file.container, {}));
  REQUIRE(image.planes.size() == file.tensor.planes.size());
  for (size_t p = 0; p < image.planes.size(); ++p) copy_plane(file.tensor.planes[p].view, image.planes[p]);
  return *image.bytes;
}

}  // namespace kvpack::test
