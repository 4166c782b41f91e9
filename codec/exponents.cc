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
  uint8_t coded = kDepths;  // depths below this one have a place in the table
  Counts depths{};          // below the reference; the last counts escapes
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

// Gives depths without a count one, up to the largest with one; how many depths that are.
uint8_t without_holes(Counts& counts) {
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

// Clusters of channels that share a table: sorted by mean depth first, then each channel to its cheapest table.
std::vector<Frequencies> choose_tables(std::vector<ChannelModel>& models) {
  using Costs = float __attribute__((vector_size(kChosenTables * sizeof(float))));
  const size_t tables = std::min<size_t>(kChosenTables, (models.size() + 3) / 4);
  const std::vector<uint32_t> order = by_mean_depth(models);
  for (size_t i = 0; i < order.size(); ++i) models[order[i]].table = static_cast<uint8_t>(i * tables / order.size());
  std::vector<Frequencies> frequencies(tables);
  for (int pass = 0;; ++pass) {
    std::vector<Counts> counts(tables);
    for (const ChannelModel& model : models) {
      for (size_t d = 0; d < 16; ++d) counts[model.table][d] += model.depths[d];
    }
    if (pass == kTablePasses) {
      // What a sample did not see may come all the same: depths up to the largest seen have a place, others escape.
      std::vector<uint8_t> coded;
      for (Counts& of_table : counts) coded.push_back(without_holes(of_table));
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

LaneRuns lanes_of_group(uint32_t tokens, uint32_t group) {
  const uint32_t lanes = std::min<uint32_t>(kLanes, tokens - group * kLanes);
  LaneRuns runs;
  runs.count = 1;
  runs.mask[0] = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
  return runs;
}

// A stream on its way, from its last step to its first.
class BackwardStream {
 public:
  explicit BackwardStream(size_t most_steps) : room_(std::make_unique_for_overwrite<uint8_t[]>(room(most_steps))) {
    end_ = first_ = room_.get() + room(most_steps);
    std::fill_n(state_, kLanes, static_cast<uint16_t>(kRansLow));
  }
  void code(std::span<const RansEncodeStep> steps) { first_ = kernels().encode_steps(state_, steps, first_); }
  size_t bytes(uint32_t lanes) const { return lanes * sizeof(uint16_t) + static_cast<size_t>(end_ - first_); }
  void write(uint32_t lanes, ByteWriter& out) const {
    out.write_bytes(std::as_bytes(std::span(state_, lanes)));
    out.write_bytes(std::as_bytes(std::span(first_, static_cast<size_t>(end_ - first_))));
  }

 private:
  static size_t room(size_t most_steps) { return (most_steps + 1) * kLanes; }  // a byte per lane and step at most

  std::unique_ptr<uint8_t[]> room_;
  uint16_t state_[kLanes];
  const uint8_t* end_;
  uint8_t* first_;
};

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

// The symbols of 32 values: the depth, or the escape where the channel's table has none for it. Whether one escaped.
template <int kMantissaBits>
bool depths_coded(const uint8_t* tops, uint8_t reference, uint8_t coded, uint8_t* symbols) {
  uint8_t block[kLanes];
  uint8_t any = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint8_t depth = static_cast<uint8_t>(reference - (tops[lane] >> kMantissaBits));
    block[lane] = depth < coded ? depth : kDepths;
    any |= depth < coded ? 0 : 1;
  }
  std::memcpy(symbols, block, sizeof block);
  return any != 0;
}
bool depths_coded(const uint8_t* tops, int mantissa_bits, uint8_t reference, uint8_t coded, uint8_t* symbols) {
  return mantissa_bits == 0 ? depths_coded<0>(tops, reference, coded, symbols)
                            : depths_coded<3>(tops, reference, coded, symbols);
}

// The symbols of f16 values' top three bits [rows][32].
void take_mantissas(const uint8_t* tops, size_t rows, uint8_t* __restrict symbols) {
  for (size_t i = 0; i < rows * kLanes; ++i) {
    const uint8_t bits = tops[i] & 7;
    symbols[i] = static_cast<uint8_t>(bits == 7 ? 15 : bits);
  }
}

// Puts them, as a decoder's steps leave them, behind the exponents.
void put_mantissas(const int16_t* symbols, size_t rows, uint8_t* __restrict tops) {
  for (size_t i = 0; i < rows * kLanes; ++i) {
    const int16_t index = static_cast<int16_t>(symbols[i] + kMaxSymbol);  // 15 stands for 7
    tops[i] = static_cast<uint8_t>(tops[i] << 3 | (index < 7 ? index : 7));
  }
}

// Of f16: how often each of the top three bits comes. They are nearly uniform: a sample tells how nearly.
Frequencies mantissas_of(std::span<const uint8_t> tops, int mantissa_bits) {
  constexpr size_t kEvery = 31;
  Counts counts{};
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

}  // namespace

Bytes encode_exponents(std::span<const uint8_t> tops, int mantissa_bits, uint32_t tokens, uint32_t channels) {
  std::vector<ChannelModel> models = count_channels(tops, mantissa_bits, tokens, channels);
  const std::vector<Frequencies> frequencies = choose_tables(models);
  std::vector<EncodeCode> codes;
  for (const Frequencies& frequency : frequencies) codes.push_back(make_encode_code(frequency.data()));
  const Frequencies mantissa_frequencies = mantissas_of(tops, mantissa_bits);
  codes.push_back(make_encode_code(mantissa_frequencies.data()));
  std::vector<const void*> mixed;  // a partial group's codes, one run each
  for (const EncodeCode& code : codes) mixed.push_back(&code);

  // The coder runs backwards, so groups do: one group's symbols at a time, always in the same place.
  const uint32_t groups = (tokens + kLanes - 1) / kLanes;
  const LaneRuns last_lanes = lanes_of_group(tokens, groups - 1);
  std::vector<uint8_t> depths(size_t{channels} * kLanes);
  std::vector<uint8_t> mantissas(mantissa_bits > 0 ? depths.size() : 0);
  std::vector<RansEncodeStep> steps[2];
  const auto fill_steps = [&](bool partial) {
    for (auto& of_half : steps) of_half.clear();
    for (uint32_t c = 0; c < channels; ++c) {
      const auto add = [&](size_t code, const uint8_t* of) {
        const void* of_code = partial ? static_cast<const void*>(&mixed[code]) : mixed[code];
        steps[c < channels / 2 ? 0 : 1].push_back({of_code, partial ? &last_lanes : nullptr, of});
      };
      add(models[c].table, &depths[size_t{c} * kLanes]);
      if (!mantissas.empty()) add(codes.size() - 1, &mantissas[size_t{c} * kLanes]);
    }
  };
  const uint32_t state_lanes = std::min<uint32_t>(tokens, kLanes);
  const size_t steps_of_channel = groups * (mantissa_bits > 0 ? 2 : 1);
  BackwardStream streams[2] = {BackwardStream(channels / 2 * steps_of_channel),
                               BackwardStream((channels - channels / 2) * steps_of_channel)};
  Bytes escapes;  // last to first
  bool partial = last_lanes.mask[0] != kAllLanes;
  fill_steps(partial);
  for (uint32_t group = groups; group-- > 0;) {
    const uint8_t* of_group = &tops[size_t{group} * channels * kLanes];
    for (uint32_t c = channels; c-- > 0;) {
      const uint8_t* lanes = of_group + size_t{c} * kLanes;
      uint8_t* depth = &depths[size_t{c} * kLanes];
      const ChannelModel& model = models[c];
      if (!depths_coded(lanes, mantissa_bits, model.reference, model.coded, depth)) continue;
      for (uint32_t lane = std::min<uint32_t>(kLanes, tokens - group * kLanes); lane-- > 0;) {
        if (depth[lane] == kDepths) escapes.push_back(static_cast<std::byte>(lanes[lane] >> mantissa_bits));
      }
    }
    if (mantissa_bits > 0) take_mantissas(of_group, channels, mantissas.data());
    for (size_t half = 0; half < 2; ++half) streams[half].code(steps[half]);
    if (partial) fill_steps(partial = false);
  }
  std::reverse(escapes.begin(), escapes.end());
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
  out.write_varint(streams[0].bytes(state_lanes));
  for (const BackwardStream& stream : streams) stream.write(state_lanes, out);
  return out.take();
}

Status ExponentReader::read_tables(ByteReader& in) {
  KVPACK_ASSIGN_OR_RETURN(uint8_t count, in.read<uint8_t>("count of exponent tables"));
  if (count < 1 || count > kMostTables) return corrupt(fmt::format("{} exponent tables", count));
  Frequencies frequency;
  const auto read_table = [&]() -> Status {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan bytes, in.take(frequency.size(), "exponent table"));
    std::memcpy(frequency.data(), bytes.data(), bytes.size());
    if (!is_table(frequency.data())) return corrupt("the frequencies of an exponent table do not sum to 256");
    codes_.push_back(make_symbol_code(frequency.data()));
    return {};
  };
  codes_.clear();
  for (uint32_t t = 0; t < count; ++t) KVPACK_RETURN_IF_ERROR(read_table());
  KVPACK_ASSIGN_OR_RETURN(references_, in.take(channels_, "exponent references"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan nibbles, in.take((channels_ + 1) / 2, "exponent table numbers"));
  table_.clear();
  for (uint32_t c = 0; c < channels_; ++c) {
    const uint8_t table = (static_cast<uint8_t>(nibbles[c / 2]) >> (c % 2 * 4)) & 15;
    if (table >= count) return corrupt(fmt::format("exponent table {} of {}", table, count));
    table_.push_back(table);
  }
  if (mantissa_bits_ > 0) {
    KVPACK_RETURN_IF_ERROR(read_table());
    if (std::any_of(&frequency[7], &frequency[15], [](uint8_t f) { return f != 0; })) {
      return corrupt("a table of 3 bits has more than 8 values");
    }
  }
  mixed_.clear();
  for (const SymbolCode& code : codes_) mixed_.push_back(&code);
  return {};
}

Status ExponentReader::open(ByteSpan coded, int mantissa_bits, uint32_t tokens, uint32_t channels) {
  mantissa_bits_ = mantissa_bits;
  tokens_ = tokens;
  channels_ = channels;
  next_ = 0;
  ByteReader in(coded);
  KVPACK_RETURN_IF_ERROR(read_tables(in));
  KVPACK_ASSIGN_OR_RETURN(uint64_t escape_bytes, in.read_varint("escaped exponents' bytes"));
  KVPACK_ASSIGN_OR_RETURN(escapes_, in.take(escape_bytes, "escaped exponents"));
  next_escape_ = 0;
  KVPACK_ASSIGN_OR_RETURN(uint64_t first_bytes, in.read_varint("first stream's bytes"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan first_stream, in.take(first_bytes, "first stream"));
  KVPACK_ASSIGN_OR_RETURN(ByteSpan second_stream, in.take(in.remaining(), "second stream"));
  const uint32_t state_lanes = std::min<uint32_t>(tokens, kLanes);
  KVPACK_RETURN_IF_ERROR(rans_[0].open(first_stream, state_lanes));
  KVPACK_RETURN_IF_ERROR(rans_[1].open(second_stream, state_lanes));
  depths_.resize(size_t{channels} * kLanes);
  mantissas_.resize(mantissa_bits == 0 ? 0 : depths_.size());
  last_lanes_ = lanes_of_group(tokens, (tokens - 1) / kLanes);
  return {};
}

void ExponentReader::fill_steps(bool partial) {
  for (auto& of_half : steps_) of_half.clear();
  for (uint32_t c = 0; c < channels_; ++c) {
    const auto add = [&](size_t code, int16_t* to) {
      steps_[c < channels_ / 2 ? 0 : 1].push_back({StepKind::kSymbol,
                                                   partial ? static_cast<const void*>(&mixed_[code]) : mixed_[code],
                                                   partial ? &last_lanes_ : nullptr, to});
    };
    add(table_[c], &depths_[size_t{c} * kLanes]);
    if (!mantissas_.empty()) add(codes_.size() - 1, &mantissas_[size_t{c} * kLanes]);
  }
}

Status ExponentReader::put_escapes(uint32_t lanes, uint8_t* exponents) {
  for (uint32_t c = 0; c < channels_; ++c) {
    const int16_t* depth = &depths_[size_t{c} * kLanes];
    int16_t largest = 0;
    for (int lane = 0; lane < kLanes; ++lane) largest = depth[lane] > largest ? depth[lane] : largest;
    if (largest != kEscapeSymbol) continue;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      if (depth[lane] != kEscapeSymbol) continue;
      if (next_escape_ == escapes_.size()) return corrupt("more escaped exponents than stored");
      exponents[size_t{c} * kLanes + lane] = static_cast<uint8_t>(escapes_[next_escape_++]);
    }
  }
  return {};
}

void ExponentReader::prepare_group() {
  lanes_ = std::min<uint32_t>(kLanes, tokens_ - next_);
  const bool partial = lanes_ < kLanes;
  if (next_ == 0 || partial) fill_steps(partial);
  next_ += lanes_;
}

Status ExponentReader::finish_group(bool escaped, uint8_t* tops) {
  for (uint32_t c = 0; c < channels_; ++c) {
    uint8_t exponents[kLanes];
    const int16_t* depth = &depths_[size_t{c} * kLanes];
    const uint8_t nearest = static_cast<uint8_t>(static_cast<uint8_t>(references_[c]) - kMaxSymbol);
    for (int lane = 0; lane < kLanes; ++lane) exponents[lane] = static_cast<uint8_t>(nearest - depth[lane]);
    std::memcpy(tops + size_t{c} * kLanes, exponents, sizeof exponents);
  }
  // Mantissas set the bit, too: 7 of them looks like an escape.
  if (escaped) KVPACK_RETURN_IF_ERROR(put_escapes(lanes_, tops));
  if (mantissa_bits_ > 0) put_mantissas(mantissas_.data(), channels_, tops);
  return {};
}

std::array<Status, kExponentReaders> ExponentReader::read_group_of(std::span<ExponentReader* const> readers,
                                                                   std::span<uint8_t* const> tops) {
  std::array<RansWork, kMostStreams> work;
  for (size_t r = 0; r < readers.size(); ++r) {
    readers[r]->prepare_group();
    for (size_t half = 0; half < 2; ++half) work[2 * r + half] = {&readers[r]->rans_[half], readers[r]->steps_[half]};
  }
  const uint32_t escaped = kernels().decode_together(std::span(work).first(2 * readers.size()));
  std::array<Status, kExponentReaders> status;
  for (size_t r = 0; r < readers.size(); ++r) {
    status[r] = readers[r]->finish_group(((escaped >> (2 * r)) & 3u) != 0, tops[r]);
  }
  return status;
}

Status ExponentReader::finish() const {
  KVPACK_RETURN_IF_ERROR(rans_[0].finish());
  KVPACK_RETURN_IF_ERROR(rans_[1].finish());
  if (next_escape_ != escapes_.size()) return corrupt("escaped exponents left over");
  return {};
}

}  // namespace kvpack
