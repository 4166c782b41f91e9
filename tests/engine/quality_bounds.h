// SPDX-License-Identifier: Apache-2.0
// What each quality promises on real models; the engine tests fail beyond it.
#pragma once

#include <array>
#include <limits>
#include <string_view>

namespace kvpack::engine {

struct QualityBounds {
  std::string_view quality;  // as the command line spells it
  bool byte_identical;
  double kl;         // KL(warm || restored), nats per token, at most
  double delta_nll;  // absolute value, nats per token, at most
};

inline constexpr double kUnbounded = std::numeric_limits<double>::infinity();

inline constexpr std::array<QualityBounds, 4> kQualityBounds = {{
    {"lossless", true, 0, 0},
    {"high", false, 0.001, 0.01},
    {"medium", false, 0.015, 0.03},
    {"low", false, 0.1, 0.1},
}};

}  // namespace kvpack::engine
