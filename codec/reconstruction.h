// SPDX-License-Identifier: Apache-2.0
// Where a quantized value lies in its interval: q stands for 16 q - sign(q) bias[min(|q|, 3)] units of step / 16.
#pragma once

#include <cstdint>

#include "codec/entropy_tables.h"

namespace kvpack {

inline constexpr float kUnitsPerStep = 16;

// The bias of a model's values at `level`.
inline const int8_t (&reconstruction_bias(const SymbolModel& model, int level))[4] {
  static constexpr int8_t kMidpoints[4] = {0, 0, 0, 0};
  (void)model;
  (void)level;
  return kMidpoints;
}

// Of values beyond 16 bits; the same as the kernels' within. Exact below 2^20.
inline float unit_of(int32_t q, const int8_t (&bias)[4]) {
  const int32_t shift = q >= 3 || q <= -3 ? bias[3] : q == 2 || q == -2 ? bias[2] : q != 0 ? bias[1] : 0;
  return static_cast<float>(q) * kUnitsPerStep - static_cast<float>(q < 0 ? -shift : shift);
}

}  // namespace kvpack
