// SPDX-License-Identifier: Apache-2.0
#include "codec/exponent_tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "codec/rans.h"

namespace kvpack {
namespace {

constexpr size_t kChosenTables = 8;  // more save little
constexpr int kTablePasses = 1;

// Frequencies that sum to 256: at least 1 where something was counted, and for the last index.
Frequencies frequencies_of(const DepthCounts& counts) {
  const uint64_t total = std::max<uint64_t>(1, std::accumulate(counts.begin(), counts.end(), uint64_t{0}));
  std::array<uint32_t, 16> f{};
  uint32_t sum = 0;
  for (size_t i = 0; i < 16; ++i) {
    f[i] = static_cast<uint32_t>((counts[i] * uint64_t{256} + total / 2) / total);
    if (f[i] == 0 && (counts[i] > 0 || i == 15)) f[i] = 1;
    sum += f[i];
  }
  // The difference goes where it costs least: to or from the largest. 255 is the most that one may have.
  while (sum != 256) {
    auto largest = std::max_element(f.begin(), f.end());
    if (sum > 256) {
      --*largest;
      --sum;
    } else {
      if (*largest >= 255) largest = std::find_if(f.begin(), f.end(), [](uint32_t n) { return n < 255; });
      ++*largest;
      ++sum;
    }
  }
  if (f[15] == 256) f[14] = 1, f[15] = 255;
  Frequencies frequencies;
  std::transform(f.begin(), f.end(), frequencies.begin(), [](uint32_t n) { return static_cast<uint8_t>(n); });
  return frequencies;
}

float bits_of(uint8_t frequency) {
  static const std::array<float, 256> kBits = [] {
    std::array<float, 256> bits{};
    for (size_t n = 1; n < bits.size(); ++n) bits[n] = 8.0f - std::log2(static_cast<float>(n));
    return bits;
  }();
  return kBits[frequency];
}

// How many exponents below a channel's largest are told apart when its reference is chosen; lower ones escape anyway.
constexpr uint8_t kSpan = 32;

// `below`: values by exponent, from `largest` down; the last counts all that is lower. The reference is the one that
// leaves the fewest escapes.
ChannelModel model_of(uint8_t largest, const std::array<uint32_t, kSpan>& below) {
  ChannelModel model;
  uint32_t all = 0;
  for (const uint32_t n : below) all += n;
  uint32_t inside = 0;
  for (uint32_t d = 0; d < kDepths; ++d) inside += below[d];
  uint32_t best = inside;
  uint32_t top = 0;
  for (uint32_t t = 1; t + kDepths < kSpan && best < all; ++t) {
    inside = inside - below[t - 1] + below[t + kDepths - 1];
    if (inside > best) {
      best = inside;
      top = t;
    }
  }
  model.reference = static_cast<uint8_t>(largest - top);
  for (uint32_t d = 0; d < kDepths; ++d) model.depths[d] = below[top + d];
  model.depths[kDepths] = all - best;
  return model;
}

// Gives depths without a count one, up to the largest with one; how many depths that are.
uint8_t without_holes(DepthCounts& counts) {
  uint8_t coded = kDepths;
  while (coded > 0 && counts[coded - 1] == 0) --coded;
  for (uint8_t d = 0; d < coded; ++d) counts[d] = std::max(counts[d], 1u);
  return coded;
}

// Channels in the order of their mean depth.
std::vector<uint32_t> by_mean_depth(const std::vector<ChannelModel>& models) {
  constexpr uint32_t kPerDepth = 16;  // as finely as it matters
  std::vector<uint32_t> place(models.size());
  std::array<uint32_t, 16 * kPerDepth + 1> first{};  // of each mean, one place up
  for (size_t c = 0; c < models.size(); ++c) {
    uint32_t sum = 0;
    uint32_t count = 0;
    for (uint32_t d = 0; d < 16; ++d) {
      sum += d * models[c].depths[d];
      count += models[c].depths[d];
    }
    place[c] = kPerDepth * sum / std::max(1u, count);
    ++first[place[c] + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<uint32_t> order(models.size());
  for (uint32_t c = 0; c < models.size(); ++c) order[first[place[c]]++] = c;
  return order;
}

// How far 32 values' exponents are below `reference`, at most `most`; one that is above it is as far as can be.
template <int kMantissaBits>
void depths_below(const uint8_t* tops, uint8_t reference, uint8_t most, uint8_t* depths) {
  uint8_t block[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint8_t depth = static_cast<uint8_t>(reference - (tops[lane] >> kMantissaBits));
    block[lane] = depth < most ? depth : most;
  }
  std::memcpy(depths, block, sizeof block);
}
void depths_below(const uint8_t* tops, int mantissa_bits, uint8_t reference, uint8_t most, uint8_t* depths) {
  if (mantissa_bits == 0) {
    depths_below<0>(tops, reference, most, depths);
  } else {
    depths_below<3>(tops, reference, most, depths);
  }
}

}  // namespace

// Sorted by mean depth first, then each channel to its cheapest table.
std::vector<Frequencies> choose_tables(std::vector<ChannelModel>& models) {
  using Costs = float __attribute__((vector_size(kChosenTables * sizeof(float))));
  const size_t tables = std::min<size_t>(kChosenTables, (models.size() + 3) / 4);
  const std::vector<uint32_t> order = by_mean_depth(models);
  for (size_t i = 0; i < order.size(); ++i) models[order[i]].table = static_cast<uint8_t>(i * tables / order.size());
  std::vector<Frequencies> frequencies(tables);
  for (int pass = 0;; ++pass) {
    std::vector<DepthCounts> counts(tables);
    for (const ChannelModel& model : models) {
      for (size_t d = 0; d < 16; ++d) counts[model.table][d] += model.depths[d];
    }
    if (pass == kTablePasses) {
      // What a sample did not see may come all the same: depths up to the largest seen have a place, others escape.
      std::vector<uint8_t> coded;
      for (DepthCounts& of_table : counts) coded.push_back(without_holes(of_table));
      for (ChannelModel& model : models) model.coded = coded[model.table];
    }
    std::transform(counts.begin(), counts.end(), frequencies.begin(), frequencies_of);
    if (pass == kTablePasses) return frequencies;
    Costs bits[16];  // [depth][table]
    for (size_t d = 0; d < 16; ++d) {
      // A depth that a table lacks is dear; if a channel with it comes all the same, the next pass gives it a place.
      for (size_t t = 0; t < kChosenTables; ++t)
        bits[d][t] = t < tables && frequencies[t][d] > 0 ? bits_of(frequencies[t][d]) : 12.0f;
    }
    for (ChannelModel& model : models) {
      Costs cost{};
      for (size_t d = 0; d < 16; ++d) cost += bits[d] * static_cast<float>(model.depths[d]);
      size_t cheapest = 0;
      for (size_t t = 1; t < tables; ++t) cheapest = cost[t] < cost[cheapest] ? t : cheapest;
      model.table = static_cast<uint8_t>(cheapest);
    }
  }
}

// They are nearly uniform: a sample tells how nearly.
Frequencies mantissas_of(std::span<const uint8_t> tops, int mantissa_bits) {
  constexpr size_t kEvery = 31;
  DepthCounts counts{};
  for (int bits = 0; bits < 8 && mantissa_bits > 0; ++bits) counts[mantissa_index(bits)] = 1;
  for (size_t i = 0; i < tops.size() && mantissa_bits > 0; i += kEvery) ++counts[mantissa_index(tops[i] & 7)];
  return frequencies_of(counts);
}

// The largest exponent of each channel, and how many of a sample lie how far below it.
std::vector<ChannelModel> count_channels(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens,
                                         uint32_t channels) {
  // Every other group tells as much as all of them where there are enough; the largest must be that of all.
  constexpr uint32_t kEnough = 4 * kLanes;
  const uint32_t every = tokens >= kEnough ? 2 * kLanes : kLanes;
  std::vector<ChannelModel> models(channels);
  for (uint32_t c = 0; c < channels; ++c) {
    const auto lanes_of = [&](uint32_t first) { return &tops[(size_t{first} / kLanes * channels + c) * kLanes]; };
    uint8_t largest_of_lane[kLanes] = {};
    uint32_t first = 0;
    for (; first + kLanes <= tokens; first += kLanes) {
      const uint8_t* lanes = lanes_of(first);
      for (int lane = 0; lane < kLanes; ++lane)
        largest_of_lane[lane] = lanes[lane] > largest_of_lane[lane] ? lanes[lane] : largest_of_lane[lane];
    }
    for (; first < tokens; ++first) {
      uint8_t& largest = largest_of_lane[first % kLanes];
      largest = std::max(largest, lanes_of(first)[first % kLanes]);
    }
    uint8_t largest = 0;
    for (int lane = 0; lane < kLanes; ++lane)
      largest = largest_of_lane[lane] > largest ? largest_of_lane[lane] : largest;
    largest = static_cast<uint8_t>(largest >> mantissa_bits);
    // Equal exponents follow each other: four counters each, so that none waits for the one before.
    uint32_t counts[4][kSpan] = {};
    for (first = 0; first < tokens; first += every) {
      uint8_t below[kLanes];
      depths_below(lanes_of(first), mantissa_bits, largest, kSpan - 1, below);
      const uint32_t count = std::min<uint32_t>(kLanes, tokens - first);
      uint32_t lane = 0;
      for (; lane + 4 <= count; lane += 4) {
        ++counts[0][below[lane]];
        ++counts[1][below[lane + 1]];
        ++counts[2][below[lane + 2]];
        ++counts[3][below[lane + 3]];
      }
      for (; lane < count; ++lane) ++counts[0][below[lane]];
    }
    std::array<uint32_t, kSpan> sums;
    for (size_t d = 0; d < kSpan; ++d) sums[d] = counts[0][d] + counts[1][d] + counts[2][d] + counts[3][d];
    models[c] = model_of(largest, sums);
  }
  return models;
}

}  // namespace kvpack
