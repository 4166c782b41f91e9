// SPDX-License-Identifier: Apache-2.0
#include "codec/presets/kvtc_groups.h"

#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/parallel.h"
#include "codec/presets/group_quantizer.h"
#include "formats/bytes.h"
#include "formats/half.h"

namespace kvpack {
namespace {

constexpr uint32_t kSampleStride = 8;  // of tokens on which errors are measured
constexpr int kZstdLevel = 9;
constexpr uint32_t kGroupSizes[] = {1, 16, 64, 256, 1024};
constexpr uint32_t kGroupStart = 16;  // groups of several components start at multiples
constexpr int kBitChoices[] = {2, 4, 8};
constexpr uint64_t kHeaderBytes = 4;  // a group's size and kind

uint64_t bits_of(const KvtcGroup& group) {
  if (group.size == 1) return 16;
  return uint64_t{group.size} * static_cast<uint64_t>(group.bits) + (group.floats ? 0 : kGroupBits);
}

// 8-bit floats with 4 bits of exponent and 3 of mantissa, of values measured in deviations of their component: up to
// 448 deviations, in steps of 2^-9 of one at the least.
int f8_step_exponent(float value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::max(exponent - 4, -9);
}

float round_to_f8(float value) {
  const int step = f8_step_exponent(value);
  return std::clamp(std::ldexp(std::nearbyint(std::ldexp(value, -step)), step), -448.0f, 448.0f);
}

uint32_t f8_bits(float rounded) {
  const float magnitude = std::fabs(rounded);
  const int step = f8_step_exponent(magnitude);
  return (rounded < 0 ? 128u : 0u) |
         (static_cast<uint32_t>(step + 9) * 8 + static_cast<uint32_t>(std::ldexp(magnitude, -step)));
}

// What one token's group keeps.
void quantize(const KvtcGroup& group, const float* deviation, float* values) {
  if (group.size == 1) {
    *values = round_to_f16(*values);
  } else if (group.floats) {
    for (uint32_t i = 0; i < group.size; ++i) {
      if (deviation[i] > 0) values[i] = round_to_f8(values[i] / deviation[i]) * deviation[i];
    }
  } else {
    quantize_group(values, group.size, 1, group.bits);
  }
}

// Squared error of components [start, start + size), on the sample.
double group_error(const KvtcComponents& all, uint32_t start, const KvtcGroup& group) {
  double error = 0;
  std::vector<float> values(group.size);
  for (Eigen::Index t = 0; t < all.values.rows(); t += kSampleStride) {
    const float* from = all.values.data() + t * all.values.cols() + start;
    std::copy(from, from + group.size, values.begin());
    quantize(group, &all.deviation[start], values.data());
    for (uint32_t i = 0; i < group.size; ++i) error += std::pow(static_cast<double>(values[i] - from[i]), 2);
  }
  return error;
}

// What every group would cost.
struct Candidates {
  double tokens = 0;                                          // sampled
  std::vector<double> energy_from;                            // [component + 1] squared values of it and all later ones
  std::vector<std::vector<std::pair<KvtcGroup, double>>> at;  // [start]: squared error
};

std::vector<KvtcGroup> groups_of_size(uint32_t size) {
  if (size == 1) return {{1, 16, false}};
  std::vector<KvtcGroup> groups = {{size, 8, true}};
  for (const int bits : kBitChoices) groups.push_back({size, bits, false});
  return groups;
}

Candidates measure_candidates(const KvtcComponents& all, unsigned threads) {
  const auto count = static_cast<uint32_t>(all.values.cols());
  Candidates found;
  found.tokens = std::ceil(static_cast<double>(all.values.rows()) / kSampleStride);
  found.energy_from.assign(count + 1, 0);
  for (uint32_t k = count; k-- > 0;) {
    double energy = 0;
    for (Eigen::Index t = 0; t < all.values.rows(); t += kSampleStride) energy += std::pow(double{all.values(t, k)}, 2);
    found.energy_from[k] = found.energy_from[k + 1] + energy;
  }
  found.at.resize(count);
  parallel_for(count, threads, [&](uint64_t at) {
    const auto start = static_cast<uint32_t>(at);
    for (const uint32_t size : kGroupSizes) {
      if (start % std::min(size, kGroupStart) != 0 || start + size > count) continue;
      for (const KvtcGroup& group : groups_of_size(size)) {
        found.at[start].push_back({group, group_error(all, start, group)});
      }
    }
  });
  return found;
}

// The groups of least error + price x bits.
std::vector<KvtcGroup> best_groups(const Candidates& candidates, double price) {
  const size_t count = candidates.at.size();
  std::vector<double> cost(count + 1);
  std::vector<KvtcGroup> from(count + 1);
  for (size_t start = count; start-- > 0;) {
    cost[start] = candidates.energy_from[start];  // dropped from here on
    for (const auto& [group, error] : candidates.at[start]) {
      const double bits = candidates.tokens * static_cast<double>(bits_of(group));
      const double candidate = error + price * bits + cost[start + group.size];
      if (candidate < cost[start]) {
        cost[start] = candidate;
        from[start] = group;
      }
    }
  }
  std::vector<KvtcGroup> groups;
  for (size_t start = 0; start < count && from[start].size > 0; start += from[start].size)
    groups.push_back(from[start]);
  return groups;
}

class BitPacker {
 public:
  void put(uint32_t value, int bits) {
    for (int b = 0; b < bits; ++b, ++count_) {
      if (count_ % 8 == 0) bytes_.push_back(std::byte{0});
      if ((value >> b & 1u) != 0) bytes_.back() |= static_cast<std::byte>(1u << (count_ % 8));
    }
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
  uint64_t count_ = 0;
};

uint64_t zstd_bytes(const Bytes& bytes) {
  Bytes out(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), kZstdLevel);
  return ZSTD_isError(size) != 0 ? bytes.size() : std::min<uint64_t>(size, bytes.size());
}

void pack_floats(const KvtcGroup& group, const float* deviation, float* values, BitPacker& symbols) {
  quantize(group, deviation, values);
  if (group.size == 1) {
    symbols.put(f32_to_f16(*values), 16);
    return;
  }
  for (uint32_t i = 0; i < group.size; ++i) {
    symbols.put(deviation[i] > 0 ? f8_bits(round_to_f8(values[i] / deviation[i])) : 0, 8);
  }
}

void pack_levels(const KvtcGroup& group, float* values, BitPacker& scales, BitPacker& symbols) {
  const GroupScale of_group = quantize_group(values, group.size, 1, group.bits);
  scales.put(f32_to_f16(of_group.minimum), 16);
  scales.put(f32_to_f16(of_group.scale), 16);
  for (uint32_t i = 0; i < group.size; ++i) {
    const float q = of_group.scale > 0 ? (values[i] - of_group.minimum) / of_group.scale : 0.0f;
    symbols.put(static_cast<uint32_t>(std::lround(q)), group.bits);
  }
}

// One group of all tokens.
uint64_t code_group(const KvtcGroup& group, uint32_t start, KvtcComponents& all) {
  BitPacker scales, symbols;
  for (Eigen::Index t = 0; t < all.values.rows(); ++t) {
    float* values = all.values.data() + t * all.values.cols() + start;
    if (group.size == 1 || group.floats) {
      pack_floats(group, &all.deviation[start], values, symbols);
    } else {
      pack_levels(group, values, scales, symbols);
    }
  }
  return zstd_bytes(scales.bytes()) + zstd_bytes(symbols.bytes()) + kHeaderBytes;
}

}  // namespace

std::vector<KvtcGroup> choose_kvtc_groups(const KvtcComponents& all, double budget_bits, unsigned threads) {
  const Candidates candidates = measure_candidates(all, threads);
  double low = 1e-12;
  double high = 1e12;
  for (int i = 0; i < 60; ++i) {
    const double price = std::sqrt(low * high);
    double bits = 0;
    for (const KvtcGroup& group : best_groups(candidates, price)) bits += static_cast<double>(bits_of(group));
    (bits > budget_bits ? low : high) = price;
  }
  return best_groups(candidates, high);
}

uint64_t code_kvtc_groups(KvtcComponents& all, const std::vector<KvtcGroup>& groups, unsigned threads) {
  std::vector<uint32_t> starts(groups.size());
  uint32_t end = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    starts[g] = end;
    end += groups[g].size;
  }
  std::vector<uint64_t> bytes(groups.size());
  parallel_for(groups.size(), threads, [&](uint64_t g) { bytes[g] = code_group(groups[g], starts[g], all); });
  all.values.rightCols(all.values.cols() - end).setZero();
  return std::accumulate(bytes.begin(), bytes.end(), uint64_t{0});
}

}  // namespace kvpack
