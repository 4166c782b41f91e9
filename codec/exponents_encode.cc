// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <memory>

#include "codec/exponent_tables.h"
#include "codec/exponents.h"
#include "codec/kernels.h"

namespace kvpack {
namespace {

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

}  // namespace kvpack
