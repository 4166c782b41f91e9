// SPDX-License-Identifier: Apache-2.0
#include "codec/token_classes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/rans.h"

namespace kvpack {

LaneOrder lane_order(std::span<const int8_t> classes, uint32_t tokens) {
  LaneOrder order;
  order.token.resize(tokens);
  order.token_class.assign(tokens, 0);
  std::iota(order.token.begin(), order.token.end(), 0u);
  if (classes.empty()) return order;
  std::stable_sort(order.token.begin(), order.token.end(),
                   [&](uint32_t a, uint32_t b) { return classes[a] > classes[b]; });
  for (uint32_t first = 0; first < tokens; first += kLanes) {
    const uint32_t end = std::min(tokens, first + kLanes);
    int sum = 0;
    for (uint32_t slot = first; slot < end; ++slot) {
      order.token_class[slot] = classes[order.token[slot]];
      sum += classes[order.token[slot]];
    }
    if (first == 0) continue;
    // Rounded half up, in integers: sum / n + 1/2, floored.
    const int n = static_cast<int>(end - first);
    const int doubled = 2 * sum + n;
    const int mean = doubled >= 0 ? doubled / (2 * n) : -((-doubled + 2 * n - 1) / (2 * n));
    std::fill(order.token_class.begin() + first, order.token_class.begin() + end, static_cast<int8_t>(mean));
  }
  return order;
}

std::vector<int8_t> classes_from_weights(std::span<const float> weights) {
  double sum = 0;
  size_t counted = 0;
  for (const float weight : weights) {
    if (!(weight > 0) || !std::isfinite(weight)) continue;
    sum += weight;
    ++counted;
  }
  std::vector<int8_t> classes(weights.size(), static_cast<int8_t>(kMinTokenClass));
  if (counted == 0) return std::vector<int8_t>(weights.size(), 0);
  const double mean = sum / static_cast<double>(counted);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0) || !std::isfinite(weights[i])) continue;
    const double octaves = 0.25 * std::log2(weights[i] / mean);
    classes[i] = static_cast<int8_t>(std::clamp(static_cast<int>(std::lrint(octaves)), kMinTokenClass, kMaxTokenClass));
  }
  return classes;
}

void write_token_classes(std::span<const int8_t> classes, ByteWriter& out) {
  const bool any = std::any_of(classes.begin(), classes.end(), [](int8_t c) { return c != 0; });
  out.write(static_cast<uint8_t>(any));
  if (!any) return;
  uint32_t pending = 0;
  int pending_bits = 0;
  for (const int8_t token_class : classes) {
    pending |= static_cast<uint32_t>(token_class - kMinTokenClass) << pending_bits;
    pending_bits += 3;
    if (pending_bits >= 8) {
      out.write(static_cast<uint8_t>(pending));
      pending >>= 8;
      pending_bits -= 8;
    }
  }
  if (pending_bits > 0) out.write(static_cast<uint8_t>(pending));
}

Result<std::vector<int8_t>> read_token_classes(ByteReader& in, uint64_t count) {
  KVPACK_ASSIGN_OR_RETURN(uint8_t any, in.read<uint8_t>("token class flag"));
  if (any > 1) return corrupt(fmt::format("token class flag is {}, expected 0 or 1", any));
  if (any == 0) return std::vector<int8_t>{};
  KVPACK_ASSIGN_OR_RETURN(ByteSpan packed, in.take((count * 3 + 7) / 8, "token classes"));
  std::vector<int8_t> classes(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t bit = i * 3;
    uint32_t pair = static_cast<uint32_t>(packed[bit / 8]);
    if (bit / 8 + 1 < packed.size()) pair |= static_cast<uint32_t>(packed[bit / 8 + 1]) << 8;
    classes[i] = static_cast<int8_t>(static_cast<int>((pair >> (bit % 8)) & 7u) + kMinTokenClass);
  }
  return classes;
}

}  // namespace kvpack
