// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_backends.h"

#include <dlfcn.h>
#include <ggml-backend.h>

namespace kvpack::engine {
namespace {

bool load(const std::string& folder) {
  if (!folder.empty()) {
    ggml_backend_load_all_from_path(folder.c_str());
    return ggml_backend_dev_count() > 0;
  }
  if (ggml_backend_dev_count() > 0) return true;
  Dl_info where{};
  if (dladdr(reinterpret_cast<const void*>(&ggml_backend_load_all), &where) != 0 && where.dli_fname != nullptr) {
    const std::string library = where.dli_fname;
    const size_t slash = library.rfind('/');
    if (slash != std::string::npos) ggml_backend_load_all_from_path(library.substr(0, slash).c_str());
  }
  if (ggml_backend_dev_count() == 0) ggml_backend_load_all();
  return ggml_backend_dev_count() > 0;
}

}  // namespace

bool load_backends(const std::string& folder) {
  static const bool kLoaded = load(folder);
  return kLoaded;
}

}  // namespace kvpack::engine
