// SPDX-License-Identifier: Apache-2.0
#include "codec/kernels.h"

#include <array>
#include <cstdlib>
#include <string>

namespace kvpack {
namespace {

struct Runnable {
  std::array<const Kernels*, 4> table{};
  size_t count = 0;

  Runnable() {
    for (const Kernels* kernels : {&scalar_kernels(), avx2_kernels(), avx512_kernels(), neon_kernels()}) {
      if (kernels != nullptr) table[count++] = kernels;
    }
  }
};

const Runnable& runnable() {
  static const Runnable kRunnable;
  return kRunnable;
}

// What KVPACK_ISA names, or null.
const Kernels* wanted_kernels() {
  const char* wanted = std::getenv("KVPACK_ISA");
  for (const Kernels* candidate : runnable_kernels()) {
    if (wanted != nullptr && candidate->name == wanted) return candidate;
  }
  return nullptr;
}

}  // namespace

std::span<const Kernels* const> runnable_kernels() { return {runnable().table.data(), runnable().count}; }

const Kernels& kernels() {
  static const Kernels& kChosen = []() -> const Kernels& {
    const Kernels* wanted = wanted_kernels();
    return wanted != nullptr ? *wanted : *runnable_kernels().back();
  }();
  return kChosen;
}

Status check_kernel_choice() {
  const char* wanted = std::getenv("KVPACK_ISA");
  if (wanted == nullptr || wanted_kernels() != nullptr) return {};
  std::string names;
  for (const Kernels* candidate : runnable_kernels()) {
    names += names.empty() ? "" : ", ";
    names += candidate->name;
  }
  return invalid_argument("KVPACK_ISA is '" + std::string(wanted) + "'; this machine and build can run " + names);
}

}  // namespace kvpack
