// SPDX-License-Identifier: Apache-2.0
#include "codec/token_classes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "codec/entropy_codes.h"
#include "codec/entropy_tables.h"
#include "codec/kernels.h"
#include "codec/rans.h"

namespace kvpack {

LaneOrder lane_order(std::span<const int8_t> classes, uint32_t tokens) {
  LaneOrder order;
  order.token.resize(tokens);
  order.token_class.assign(tokens, 0);
  if (classes.empty()) {
    std::iota(order.token.begin(), order.token.end(), 0u);
    return order;
  }
  // Counted, highest class first; tokens of one class stay in order.
  std::array<uint32_t, kMaxTokenClass - kMinTokenClass + 2> next{};
  for (const int8_t token_class : classes) ++next[static_cast<size_t>(kMaxTokenClass - token_class + 1)];
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (uint32_t token = 0; token < tokens; ++token) {
    order.token[next[static_cast<size_t>(kMaxTokenClass - classes[token])]++] = token;
  }
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

constexpr size_t kClassLanes = 8;

// A step on the first lanes alone.
struct ClassStep {
  LaneRuns runs;
  const void* code[1];

  void set(const void* of_lanes, size_t lanes) {
    runs.count = 1;
    runs.mask[0] = (1u << lanes) - 1;
    code[0] = of_lanes;
  }
};

struct ClassTable {
  int center = 0;
  int scale = 0;
};

// [scale][symbol]
const auto& symbol_bits() {
  static const auto kBits = [] {
    std::array<std::array<double, 2 * kMaxSymbol + 1>, kSymbolScales> bits{};
    for (size_t scale = 0; scale < bits.size(); ++scale) {
      for (size_t i = 0; i < bits[scale].size(); ++i) {
        bits[scale][i] = -std::log2(kSymbolFrequencies[0][scale][i] / 256.0);
      }
    }
    return bits;
  }();
  return kBits;
}

// The center and table that code `classes` in the fewest bits.
ClassTable best_class_table(std::span<const int8_t> classes) {
  std::array<uint32_t, kMaxTokenClass - kMinTokenClass + 1> counts{};
  for (const int8_t token_class : classes) ++counts[token_class - kMinTokenClass];
  ClassTable best;
  double best_bits = std::numeric_limits<double>::infinity();
  for (int center = kMinTokenClass; center <= kMaxTokenClass; ++center) {
    for (int scale = 0; scale < kSymbolScales; ++scale) {
      const auto& of_table = symbol_bits()[static_cast<size_t>(scale)];
      double bits = 0;
      for (int c = kMinTokenClass; c <= kMaxTokenClass; ++c) {
        const uint32_t count = counts[c - kMinTokenClass];
        if (count > 0) bits += count * of_table[static_cast<size_t>(c - center + kMaxSymbol)];
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
  const size_t steps_per_head = (tokens + kClassLanes - 1) / kClassLanes;
  std::vector<uint8_t> symbols(kv_heads * steps_per_head * kLanes, 0);
  std::vector<ClassStep> mixed(kv_heads * steps_per_head);
  std::vector<RansEncodeStep> steps;
  for (uint32_t head = 0; head < kv_heads; ++head) {
    const auto of_head = classes.subspan(head * tokens, tokens);
    const ClassTable chosen = best_class_table(of_head);
    out.write(static_cast<int8_t>(chosen.center));
    out.write(static_cast<uint8_t>(chosen.scale));
    for (size_t i = 0; i < tokens; i += kClassLanes) {
      uint8_t* of_step = &symbols[steps.size() * kLanes];
      const size_t count = std::min(tokens - i, kClassLanes);
      for (size_t lane = 0; lane < count; ++lane) {
        of_step[lane] = static_cast<uint8_t>(of_head[i + lane] - chosen.center + kMaxSymbol);
      }
      ClassStep& step = mixed[steps.size()];
      step.set(&entropy_codes().encode_symbols[0][chosen.scale], count);
      steps.push_back({step.code, &step.runs, of_step});
    }
  }
  uint16_t state[kLanes];
  std::fill_n(state, kLanes, static_cast<uint16_t>(kRansLow));
  std::vector<uint8_t> reversed((steps.size() + 1) * kLanes);  // a byte per lane and step at most
  uint8_t* end = reversed.data() + reversed.size();
  const uint8_t* first = kernels().encode_steps(state, steps, end);
  const std::span<const uint16_t> states(state, kClassLanes);
  out.write_varint(states.size_bytes() + static_cast<size_t>(end - first));
  out.write_bytes(std::as_bytes(states));
  out.write_bytes(std::as_bytes(std::span<const uint8_t>(first, end)));
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
  RansReader rans;
  KVPACK_RETURN_IF_ERROR(rans.open(stream, kClassLanes));
  const size_t steps_per_head = (tokens + kClassLanes - 1) / kClassLanes;
  std::vector<int16_t> values(kv_heads * steps_per_head * kLanes, 0);
  std::vector<ClassStep> mixed(kv_heads * steps_per_head);
  std::vector<RansStep> steps;
  for (uint32_t head = 0; head < kv_heads; ++head) {
    for (size_t i = 0; i < tokens; i += kClassLanes) {
      ClassStep& step = mixed[steps.size()];
      step.set(&entropy_codes().symbols[0][tables[head].scale], std::min<size_t>(tokens - i, kClassLanes));
      steps.push_back({StepKind::kSymbol, step.code, &step.runs, &values[steps.size() * kLanes]});
    }
  }
  std::array work{RansWork{&rans, steps}};
  (void)kernels().decode_together(work);  // an escape is out of range below
  result.classes.resize(size_t{kv_heads} * tokens);
  for (uint32_t head = 0; head < kv_heads; ++head) {
    for (uint32_t i = 0; i < tokens; ++i) {
      const size_t step = head * steps_per_head + i / kClassLanes;
      const int16_t symbol = values[step * kLanes + i % kClassLanes];
      const int token_class = symbol + tables[head].center;
      if (symbol == kEscapeSymbol || token_class < kMinTokenClass || token_class > kMaxTokenClass) {
        return corrupt(fmt::format("token class of head {}, token {} is out of range", head, i));
      }
      result.classes[size_t{head} * tokens + i] = static_cast<int8_t>(token_class);
    }
  }
  KVPACK_RETURN_IF_ERROR(rans.finish());
  return result;
}

}  // namespace kvpack
