// SPDX-License-Identifier: Apache-2.0
// The coded part of a tile (level_code.h), read group by group: all its levels side by side, so that a group's values
// stay in the cache from the first bit to the last rounding. Values have 16 bits here; a tile whose values need more
// (wide) is read by decode_level instead.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/entropy_tables.h"
#include "codec/level_code.h"
#include "codec/rans.h"

namespace kvpack {

// Lanes of one head's group by token class, for codes and for steps.
struct GroupClasses {
  bool uniform = false;  // 32 lanes of one class, token_class[0]
  LaneRuns runs;
  std::array<int8_t, 8> token_class{};

  bool operator==(const GroupClasses& other) const;
};
// Of the slots [first, first + 32) as far as they exist.
GroupClasses group_classes(const LaneOrder& order, uint32_t first);

class TileSymbols {
 public:
  // `bodies`: the levels' bodies to decode, level 0 first. Both must outlive the reading of all groups.
  Status open(std::span<const ByteSpan> bodies, const PlaneParameters& parameters, const PlaneShape& shape,
              std::span<const LaneOrder> order, uint32_t tokens);
  // Set when open or decode found values beyond 16 bits: start again with decode_level.
  bool wide() const { return wide_; }
  // Fills values() with the slots of group `group`. Groups come in order.
  Status decode_group(uint32_t group);
  // The same for up to kMostStreams tiles in lockstep, each of which has that group. [tile]
  static std::array<Status, kMostStreams> decode_group_of(std::span<TileSymbols* const> tiles, uint32_t group);
  // Corrupt unless everything was used.
  Status finish() const;

  uint32_t groups() const { return (tokens_ + kLanes - 1) / kLanes; }
  // [component][32], zero for dead ones.
  const int16_t* values(uint32_t component) const { return &values_[size_t{component} * kLanes]; }

 private:
  static constexpr size_t kTokenClasses = kMaxTokenClass - kMinTokenClass + 1;
  using LaneCodes = std::array<const void*, 8>;  // [run]
  // Steps in memory that is kept: as many lists are made per tile as there are heads and token classes.
  struct StepList {
    std::vector<RansStep> room;
    size_t count = 0;

    void clear(size_t most) {
      if (room.size() < most) room.resize(most);
      count = 0;
    }
    void add(const RansStep& step) { room[count++] = step; }
    std::span<const RansStep> steps() const { return {room.data(), count}; }
  };
  struct Level {
    bool coded = false;  // some component is alive
    RansReader rans;
    StepList steps;  // of the current group
  };
  // One head's steps where all 32 lanes have one token class: made once per tile, copied from group to group.
  struct ClassSteps {
    bool made = false;
    std::array<StepList, kMaxLevels> of_level;
    std::vector<uint32_t> begin;  // [live component of the head + 1] in level 0's
    std::vector<int16_t> most;    // [live component of the head]
  };

  Status read_classes(ByteReader& in, uint32_t level);
  ClassSteps& class_steps(uint32_t head, int token_class);
  void make_class_steps(uint32_t head, int token_class, ClassSteps& into);
  void prepare_group(uint32_t group);
  void add_uniform(uint32_t head, const ClassSteps& steps);
  void add_mixed(uint32_t head, const GroupClasses& group);
  std::span<const uint32_t> live(uint32_t head) const {
    return std::span(live_).subspan(live_begin_[head], live_begin_[head + 1] - live_begin_[head]);
  }
  Status patch_escapes();

  const PlaneParameters* parameters_ = nullptr;
  std::span<const LaneOrder> order_;
  uint32_t tokens_ = 0;
  uint32_t levels_ = 0;
  bool wide_ = false;
  std::vector<uint32_t> head_of_;        // [component]
  std::vector<uint32_t> index_of_;       // [component] within its head
  std::vector<uint8_t> class_of_;        // [component]
  std::vector<uint8_t> first_level_;     // [component] where it comes to life
  std::vector<uint32_t> late_;           // components that come to life above level 0
  std::vector<uint32_t> head_begin_;     // [head + 1] components
  std::vector<uint32_t> live_;           // components that some level codes, ascending
  std::vector<uint32_t> live_begin_;     // [head + 1] in live_
  std::vector<ClassSteps> class_steps_;  // [head][token class]
  std::vector<GroupClasses> heads_;      // [head] of the current steps
  std::vector<LaneCodes> mixed_codes_;   // of the current group's steps with several classes
  std::vector<LaneRuns> mixed_runs_;     // of those that only some of the classes take part in
  std::vector<int16_t> values_;          // [component][32]
  // Of the current steps: the largest value of a component that is no escape in any lane; what is above is one.
  std::vector<int16_t> most_;   // [component], those that level 0 codes; no value is above the others'
  std::vector<uint8_t> above_;  // [component] scratch
  ByteReader escapes_{ByteSpan()};
  std::array<Level, kMaxLevels> level_;
};

}  // namespace kvpack
