// SPDX-License-Identifier: Apache-2.0
#include "codec/kernels.h"

#include <array>
#include <cstdlib>

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

}  // namespace

std::span<const Kernels* const> runnable_kernels() { return {runnable().table.data(), runnable().count}; }

const Kernels& kernels() {
  static const Kernels& kChosen = []() -> const Kernels& {
    const char* wanted = std::getenv("KVPACK_ISA");
    for (const Kernels* candidate : runnable_kernels()) {
      if (wanted != nullptr && candidate->name == wanted) return *candidate;
    }
    return *runnable_kernels().back();
  }();
  return kChosen;
}

}  // namespace kvpack
