// SPDX-License-Identifier: Apache-2.0
#include "codec/exponents.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "codec/entropy_tables.h"
#include "codec/kernels.h"

namespace kvpack {
namespace {

constexpr size_t kMostTables = 16;   // that a stream may have
constexpr size_t kChosenTables = 8;  // more save little

constexpr uint8_t kDepths = 15;  // then the escape
constexpr int kTablePasses = 1;

using Counts = std::array<uint32_t, 16>;
using Frequencies = std::array<uint8_t, 16>;

uint8_t mantissa_index(int bits) { return static_cast<uint8_t>(bits == 7 ? 15 : bits); }

// Frequencies that sum to 256: at least 1 where something was counted, and for the last index.
Frequencies frequencies_of(const Counts& counts) {
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

bool is_table(const uint8_t* frequency) {
  return std::accumulate(frequency, frequency + 16, 0) == 256 && frequency[15] > 0;
}

struct ChannelModel {
  uint8_t reference = 0;
  uint8_t table = 0;
  Counts depths{};  // below the reference; the last counts escapes
};

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

// Clusters of channels that share a table: sorted by mean depth first, then each channel to its cheapest table.
std::vector<Frequencies> choose_tables(std::vector<ChannelModel>& models) {
  const size_t tables = std::min<size_t>(kChosenTables, (models.size() + 3) / 4);
  std::vector<uint32_t> order(models.size());
  std::iota(order.begin(), order.end(), 0u);
  std::vector<float> mean(models.size());
  for (size_t c = 0; c < models.size(); ++c) {
    float sum = 0;
    float count = 0;
    for (size_t d = 0; d < 16; ++d) {
      sum += static_cast<float>(d * models[c].depths[d]);
      count += static_cast<float>(models[c].depths[d]);
    }
    mean[c] = sum / std::max(1.0f, count);
  }
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return mean[a] < mean[b]; });
  for (size_t i = 0; i < order.size(); ++i) models[order[i]].table = static_cast<uint8_t>(i * tables / order.size());
  std::vector<Frequencies> frequencies(tables);
  for (int pass = 0;; ++pass) {
    std::vector<Counts> counts(tables);
    for (const ChannelModel& model : models) {
      for (size_t d = 0; d < 16; ++d) counts[model.table][d] += model.depths[d];
    }
    std::transform(counts.begin(), counts.end(), frequencies.begin(), frequencies_of);
    if (pass == kTablePasses) return frequencies;
    std::array<std::array<float, kChosenTables>, 16> bits{};  // [depth][table]
    for (size_t t = 0; t < tables; ++t) {
      for (size_t d = 0; d < 16; ++d) {
        // A depth that a table lacks is dear; if a channel with it comes all the same, the next pass gives it a place.
        bits[d][t] = frequencies[t][d] > 0 ? bits_of(frequencies[t][d]) : 12.0f;
      }
    }
    for (ChannelModel& model : models) {
      std::array<float, kChosenTables> cost{};
      for (size_t d = 0; d < 16; ++d) {
        if (model.depths[d] == 0) continue;
        const float count = static_cast<float>(model.depths[d]);
        for (size_t t = 0; t < kChosenTables; ++t) cost[t] += bits[d][t] * count;
      }
      const auto last = cost.begin() + static_cast<std::ptrdiff_t>(tables);
      model.table = static_cast<uint8_t>(std::min_element(cost.begin(), last) - cost.begin());
    }
  }
}

LaneRuns lanes_of_group(uint32_t tokens, uint32_t group) {
  const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
  LaneRuns runs;
  runs.count = 1;
  runs.mask[0] = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
  return runs;
}

Bytes code_steps(std::span<const RansEncodeStep> steps, uint32_t lanes) {
  const size_t most_bytes = (steps.size() + 1) * kLanes;  // a byte per lane and step at most
  const auto buffer = std::make_unique_for_overwrite<uint8_t[]>(most_bytes);
  uint16_t state[kLanes];
  std::fill_n(state, kLanes, static_cast<uint16_t>(kRansLow));
  uint8_t* end = buffer.get() + most_bytes;
  const uint8_t* first = kernels().encode_steps(state, steps, end);
  Bytes stream(lanes * sizeof(uint16_t) + static_cast<size_t>(end - first));
  std::memcpy(stream.data(), state, lanes * sizeof(uint16_t));
  std::copy(reinterpret_cast<const std::byte*>(first), reinterpret_cast<const std::byte*>(end),
            stream.begin() + static_cast<std::ptrdiff_t>(lanes * sizeof(uint16_t)));
  return stream;
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

std::vector<ChannelModel> count_channels(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens,
                                         uint32_t channels) {
  std::vector<ChannelModel> models(channels);
  for (uint32_t c = 0; c < channels; ++c) {
    const auto lanes_of = [&](uint32_t first) { return &tops[(size_t{first} / kLanes * channels + c) * kLanes]; };
    uint8_t largest = 0;
    for (uint32_t first = 0; first < tokens; first += kLanes) {
      const uint8_t* lanes = lanes_of(first);
      const uint32_t count = std::min<uint32_t>(kLanes, tokens - first);
      for (uint32_t lane = 0; lane < count; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
    }
    largest = static_cast<uint8_t>(largest >> mantissa_bits);
    // Equal exponents follow each other: four counters each, so that none waits for the one before.
    uint32_t counts[4][kSpan] = {};
    for (uint32_t first = 0; first < tokens; first += kLanes) {
      const uint8_t* lanes = lanes_of(first);
      uint8_t below[kLanes];
      depths_below(lanes, mantissa_bits, largest, kSpan - 1, below);
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

struct Tables {
  std::vector<Frequencies> depths;
  std::vector<uint8_t> reference;  // [channel]
  std::vector<uint8_t> table;      // [channel]
  Frequencies mantissas{};
};

Result<Tables> read_tables(ByteReader& in, uint32_t channels, bool has_mantissas) {
  Tables tables;
  KVPACK_ASSIGN_OR_RETURN(uint8_t count, in.read<uint8_t>("count of exponent tables"));
  if (count < 1 || count > kMostTables) return corrupt(fmt::format("{} exponent tables", count));
  const auto read_table = [&](Frequencies& frequency) -> Status {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan bytes, in.take(frequency.size(), "exponent table"));
    std::memcpy(frequency.data(), bytes.data(), bytes.size());
    if (!is_table(frequency.data())) return corrupt("the frequencies of an exponent table do not sum to 256");
    return {};
  };
  tables.depths.resize(count);
  for (Frequencies& frequency : tables.depths) KVPACK_RETURN_IF_ERROR(read_table(frequency));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan references, in.take(channels, "exponent references"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan nibbles, in.take((channels + 1) / 2, "exponent table numbers"));
  for (uint32_t c = 0; c < channels; ++c) {
    tables.reference.push_back(static_cast<uint8_t>(references[c]));
    const uint8_t table = (static_cast<uint8_t>(nibbles[c / 2]) >> (c % 2 * 4)) & 15;
    if (table >= count) return corrupt(fmt::format("exponent table {} of {}", table, count));
    tables.table.push_back(table);
  }
  if (has_mantissas) {
    KVPACK_RETURN_IF_ERROR(read_table(tables.mantissas));
    if (std::any_of(&tables.mantissas[7], &tables.mantissas[15], [](uint8_t f) { return f != 0; })) {
      return corrupt("a table of 3 bits has more than 8 values");
    }
  }
  return tables;
}

}  // namespace

Bytes encode_exponents(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens, uint32_t channels) {
  std::vector<ChannelModel> models = count_channels(tops, mantissa_bits, tokens, channels);
  const std::vector<Frequencies> frequencies = choose_tables(models);
  std::vector<EncodeCode> codes;
  for (const Frequencies& frequency : frequencies) codes.push_back(make_encode_code(frequency.data()));
  std::vector<uint8_t> mantissas(mantissa_bits > 0 ? tops.size() : 0);
  // Mantissas are nearly uniform: a sample tells how nearly.
  Counts mantissa_counts{};
  for (int bits = 0; bits < 8 && mantissa_bits > 0; ++bits) mantissa_counts[mantissa_index(bits)] = 1;
  for (size_t i = 0; i < mantissas.size(); ++i) mantissas[i] = mantissa_index(tops[i] & 7);
  for (size_t i = 0; i < mantissas.size(); i += 7) ++mantissa_counts[mantissas[i]];
  const Frequencies mantissa_frequencies = frequencies_of(mantissa_counts);
  const EncodeCode mantissa_code = make_encode_code(mantissa_frequencies.data());

  const uint32_t groups = (tokens + kLanes - 1) / kLanes;
  const LaneRuns last_lanes = lanes_of_group(tokens, groups - 1);
  std::vector<uint8_t> symbols(tops.size());
  std::vector<const void*> mixed(codes.size() + 1);  // a partial group's codes, one run each
  for (size_t t = 0; t < codes.size(); ++t) mixed[t] = &codes[t];
  mixed.back() = &mantissa_code;
  std::vector<RansEncodeStep> steps[2];
  for (auto& of_half : steps) of_half.reserve(tops.size() / kLanes * (mantissa_bits > 0 ? 2 : 1) / 2 + groups);
  Bytes escapes;
  for (uint32_t group = 0; group < groups; ++group) {
    const bool partial = group + 1 == groups && last_lanes.mask[0] != kAllLanes;
    const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
    for (uint32_t c = 0; c < channels; ++c) {
      const size_t at = (size_t{group} * channels + c) * kLanes;
      const uint8_t reference = models[c].reference;
      depths_below(&tops[at], mantissa_bits, reference, kDepths, &symbols[at]);
      const bool escaped = std::memchr(&symbols[at], kDepths, kLanes) != nullptr;
      for (size_t i = at; i < at + lanes && escaped; ++i) {
        if (symbols[i] == kDepths) escapes.push_back(static_cast<std::byte>(tops[i] >> mantissa_bits));
      }
      std::vector<RansEncodeStep>& into = steps[c < channels / 2 ? 0 : 1];
      const auto add = [&](size_t code, const uint8_t* of) {
        into.push_back(
            {partial ? static_cast<const void*>(&mixed[code]) : mixed[code], partial ? &last_lanes : nullptr, of});
      };
      add(models[c].table, &symbols[at]);
      if (!mantissas.empty()) add(codes.size(), &mantissas[at]);
    }
  }
  ByteWriter out;
  out.write(static_cast<uint8_t>(frequencies.size()));
  for (const Frequencies& frequency : frequencies) out.write_bytes(std::as_bytes(std::span(frequency)));
  for (const ChannelModel& model : models) out.write(model.reference);
  for (uint32_t c = 0; c < channels; c += 2) {
    const uint32_t second = c + 1 < channels ? models[c + 1].table : 0;
    out.write(static_cast<uint8_t>(models[c].table | (second << 4)));
  }
  if (mantissa_bits > 0) out.write_bytes(std::as_bytes(std::span(mantissa_frequencies)));
  out.write_varint(escapes.size());
  out.write_bytes(escapes);
  const uint32_t state_lanes = std::min<uint32_t>(tokens, kLanes);
  const Bytes first = code_steps(steps[0], state_lanes);
  out.write_varint(first.size());
  out.write_bytes(first);
  out.write_bytes(code_steps(steps[1], state_lanes));
  return out.take();
}

Status decode_exponents(ByteReader& in, int mantissa_bits, uint32_t tokens, uint32_t channels,
                        std::span<uint8_t> tops) {
  KVPACK_ASSIGN_OR_RETURN(Tables tables, read_tables(in, channels, mantissa_bits > 0));
  KVPACK_ASSIGN_OR_RETURN(uint64_t escape_bytes, in.read_varint("escaped exponents' bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan escapes, in.take(escape_bytes, "escaped exponents"));
  RansReader rans[2];
  KVPACK_ASSIGN_OR_RETURN(uint64_t first_bytes, in.read_varint("first stream's bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan first_stream, in.take(first_bytes, "first stream"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan second_stream, in.take(in.remaining(), "second stream"));
  const uint32_t state_lanes = std::min<uint32_t>(tokens, kLanes);
  KVPACK_RETURN_IF_ERROR(rans[0].open(first_stream, state_lanes));
  KVPACK_RETURN_IF_ERROR(rans[1].open(second_stream, state_lanes));
  std::vector<SymbolCode> codes;
  for (const Frequencies& frequency : tables.depths) codes.push_back(make_symbol_code(frequency.data()));
  const SymbolCode mantissa_code = mantissa_bits == 0 ? SymbolCode{} : make_symbol_code(tables.mantissas.data());
  std::vector<const void*> mixed(codes.size() + 1);
  for (size_t t = 0; t < codes.size(); ++t) mixed[t] = &codes[t];
  mixed.back() = &mantissa_code;

  std::vector<int16_t> values(size_t{channels} * kLanes);
  std::vector<int16_t> mantissas(mantissa_bits == 0 ? 0 : values.size());
  const uint32_t groups = (tokens + kLanes - 1) / kLanes;
  const LaneRuns last_lanes = lanes_of_group(tokens, groups - 1);
  std::vector<RansStep> steps[2];
  const auto fill_steps = [&](bool partial) {
    for (auto& of_half : steps) of_half.clear();
    for (uint32_t c = 0; c < channels; ++c) {
      std::vector<RansStep>& into = steps[c < channels / 2 ? 0 : 1];
      const auto add = [&](size_t code, int16_t* to) {
        into.push_back({StepKind::kSymbol, partial ? static_cast<const void*>(&mixed[code]) : mixed[code],
                        partial ? &last_lanes : nullptr, to});
      };
      add(tables.table[c], &values[size_t{c} * kLanes]);
      if (!mantissas.empty()) add(codes.size(), &mantissas[size_t{c} * kLanes]);
    }
  };
  size_t next_escape = 0;
  for (uint32_t group = 0; group < groups; ++group) {
    const bool partial = group + 1 == groups && last_lanes.mask[0] != kAllLanes;
    if (group == 0 || partial) fill_steps(partial);
    std::array<RansWork, 2> work{RansWork{&rans[0], steps[0]}, RansWork{&rans[1], steps[1]}};
    kernels().decode_together(work);
    const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
    for (uint32_t c = 0; c < channels; ++c) {
      uint8_t* out = &tops[(size_t{group} * channels + c) * kLanes];
      const int16_t* depth = &values[size_t{c} * kLanes];
      const int16_t nearest = static_cast<int16_t>(tables.reference[c] - kMaxSymbol);
      int16_t largest = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        out[lane] = static_cast<uint8_t>(nearest - depth[lane]);
        largest = depth[lane] > largest ? depth[lane] : largest;
      }
      for (uint32_t lane = 0; lane < lanes && largest == kEscapeSymbol; ++lane) {
        if (depth[lane] != kEscapeSymbol) continue;
        if (next_escape == escapes.size()) return corrupt("more escaped exponents than stored");
        out[lane] = static_cast<uint8_t>(escapes[next_escape++]);
      }
      if (mantissas.empty()) continue;
      const int16_t* mantissa = &mantissas[size_t{c} * kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const int16_t index = static_cast<int16_t>(mantissa[lane] + kMaxSymbol);  // 15 stands for 7
        out[lane] = static_cast<uint8_t>((out[lane] << 3) | (index < 7 ? index : 7));
      }
    }
  }
  KVPACK_RETURN_IF_ERROR(rans[0].finish());
  KVPACK_RETURN_IF_ERROR(rans[1].finish());
  if (next_escape != escapes.size()) return corrupt("escaped exponents left over");
  return {};
}

}  // namespace kvpack
