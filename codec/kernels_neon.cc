// SPDX-License-Identifier: Apache-2.0
#include "codec/kernels.h"
namespace kvpack {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace kvpack
