// SPDX-License-Identifier: Apache-2.0
#include "codec/token_classes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "codec/entropy_tables.h"
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

std::vector<int8_t> classes_from_log_weights(std::span<const float> log_weights) {
  constexpr double kAlpha = 0.5;
  std::vector<int8_t> classes(log_weights.size(), static_cast<int8_t>(kMinTokenClass));
  const auto octaves = [](float log_weight) { return kAlpha * 0.5 * double{log_weight} / std::numbers::ln2; };
  double largest = -std::numeric_limits<double>::infinity();
  for (const float weight : log_weights) {
    if (std::isfinite(weight)) largest = std::max(largest, octaves(weight));
  }
  if (!std::isfinite(largest)) return std::vector<int8_t>(log_weights.size(), 0);
  double sum = 0;
  size_t counted = 0;
  for (const float weight : log_weights) {
    if (!std::isfinite(weight)) continue;
    sum += std::exp2(2 * (octaves(weight) - largest));
    ++counted;
  }
  const double center = largest + 0.5 * std::log2(sum / static_cast<double>(counted));
  for (size_t i = 0; i < log_weights.size(); ++i) {
    if (!std::isfinite(log_weights[i])) continue;
    const double rounded = std::nearbyint(octaves(log_weights[i]) - center);
    classes[i] = static_cast<int8_t>(std::clamp<double>(rounded, kMinTokenClass, kMaxTokenClass));
  }
  return classes;
}

namespace {

constexpr int kClassLanes = 8;

struct ClassTable {
  int center = 0;
  int scale = 0;
};

// The center and table that code `classes` in the fewest bits.
ClassTable best_class_table(std::span<const int8_t> classes) {
  std::array<uint32_t, kMaxTokenClass - kMinTokenClass + 1> counts{};
  for (const int8_t token_class : classes) ++counts[token_class - kMinTokenClass];
  ClassTable best;
  double best_bits = std::numeric_limits<double>::infinity();
  for (int center = kMinTokenClass; center <= kMaxTokenClass; ++center) {
    for (int scale = 0; scale < kSymbolScales; ++scale) {
      double bits = 0;
      for (int c = kMinTokenClass; c <= kMaxTokenClass; ++c) {
        const uint32_t count = counts[c - kMinTokenClass];
        if (count > 0) bits -= count * std::log2(kSymbolFrequencies[0][scale][c - center + kMaxSymbol] / 256.0);
      }
      if (bits < best_bits) {
        best_bits = bits;
        best = {center, scale};
      }
    }
  }
  return best;
}

}  // namespace

void write_token_classes(TokenClassSource source, std::span<const int8_t> classes, uint32_t kv_heads, ByteWriter& out) {
  out.write(static_cast<uint8_t>(source));
  if (source != TokenClassSource::kOwn) return;
  const size_t tokens = classes.size() / kv_heads;
  RansEncoder rans;
  for (uint32_t head = 0; head < kv_heads; ++head) {
    const auto of_head = classes.subspan(head * tokens, tokens);
    const ClassTable chosen = best_class_table(of_head);
    out.write(static_cast<int8_t>(chosen.center));
    out.write(static_cast<uint8_t>(chosen.scale));
    const SymbolTable& table = symbol_table(0, chosen.scale);
    for (size_t i = 0; i < tokens; ++i) {
      const int index = of_head[i] - chosen.center + kMaxSymbol;
      rans.put(static_cast<int>(i % kClassLanes), table.cumulative[index],
               table.cumulative[index + 1] - table.cumulative[index]);
    }
  }
  const Bytes stream = rans.finish(kClassLanes);
  out.write_varint(stream.size());
  out.write_bytes(stream);
}

Result<TileTokenClasses> read_token_classes(ByteReader& in, uint32_t kv_heads, uint32_t tokens) {
  TileTokenClasses result;
  KVPACK_ASSIGN_OR_RETURN(uint8_t source, in.read<uint8_t>("token class source"));
  if (source > static_cast<uint8_t>(TokenClassSource::kKeyTile)) {
    return corrupt(fmt::format("token class source is {}, expected 0, 1 or 2", source));
  }
  result.source = static_cast<TokenClassSource>(source);
  if (result.source != TokenClassSource::kOwn) return result;
  std::vector<ClassTable> tables;
  for (uint32_t head = 0; head < kv_heads; ++head) {
    KVPACK_ASSIGN_OR_RETURN(int8_t center, in.read<int8_t>("token class center"));
    KVPACK_ASSIGN_OR_RETURN(uint8_t scale, in.read<uint8_t>("token class scale"));
    if (center < kMinTokenClass || center > kMaxTokenClass || scale >= kSymbolScales) {
      return corrupt(fmt::format("token classes of head {} have center {} and scale {}", head, center, scale));
    }
    tables.push_back({center, scale});
  }
  KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("token class bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan stream, in.take(bytes, "token classes"));
  KVPACK_ASSIGN_OR_RETURN(RansDecoder rans, RansDecoder::open(stream, kClassLanes));
  result.classes.resize(size_t{kv_heads} * tokens);
  for (uint32_t head = 0; head < kv_heads; ++head) {
    const SymbolTable& table = symbol_table(0, tables[head].scale);
    for (uint32_t i = 0; i < tokens; ++i) {
      const int lane = static_cast<int>(i % kClassLanes);
      const int index = table.symbol_of_slot[rans.slot(lane)];
      rans.advance(lane, table.cumulative[index], table.cumulative[index + 1] - table.cumulative[index]);
      const int token_class = index - kMaxSymbol + tables[head].center;
      if (index == kEscapeIndex || token_class < kMinTokenClass || token_class > kMaxTokenClass) {
        return corrupt(fmt::format("token class of head {}, token {} is out of range", head, i));
      }
      result.classes[size_t{head} * tokens + i] = static_cast<int8_t>(token_class);
    }
  }
  KVPACK_RETURN_IF_ERROR(rans.finish());
  return result;
}

}  // namespace kvpack
