// SPDX-License-Identifier: Apache-2.0
#include "codec/presets/preset.h"

#include <fmt/format.h>

namespace kvpack {

const std::vector<Preset>& presets() {
  static const std::vector<Preset> kAll = [] {
    std::vector<Preset> all;
    for (const auto add : {add_cachegen, add_kivi, add_kvquant, add_gear, add_rotatekv, add_zipcache, add_minicache,
                           add_ggml, add_kvtc, add_zstd}) {
      add(all);
    }
    return all;
  }();
  return kAll;
}

Result<std::vector<const Preset*>> presets_named(std::string_view list) {
  std::vector<const Preset*> chosen;
  if (list == "all") list = {};
  const bool everything = list.empty();
  std::vector<bool> wanted(presets().size(), everything);
  while (!list.empty()) {
    const std::string_view name = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), name.size() + 1));
    bool found = false;
    for (size_t p = 0; p < wanted.size(); ++p) {
      if (presets()[p].name != name && presets()[p].family != name) continue;
      wanted[p] = true;
      found = true;
    }
    if (found) continue;
    std::string known = "all";
    for (const Preset& preset : presets()) known += ", " + preset.name;
    return invalid_argument(fmt::format("unknown preset '{}'; known: {}", name, known));
  }
  for (size_t p = 0; p < wanted.size(); ++p) {
    if (wanted[p]) chosen.push_back(&presets()[p]);
  }
  return chosen;
}

}  // namespace kvpack
