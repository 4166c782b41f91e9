// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <memory>

#include "codec/class_choice.h"
#include "codec/class_code.h"
#include "codec/entropy_codes.h"
#include "codec/kernels.h"
#include "codec/level_code.h"
#include "codec/quantizer.h"
#include "codec/rans.h"
#include "codec/tile_symbols.h"

namespace kvpack {
namespace {

// In tiles of more tokens than this, classes are not fitted to the first group: it has a token class for nearly every
// lane, which costs time to count, and 32 tokens change little.
constexpr uint32_t kFitAll = 4 * kLanes;

// Neighbouring slots of one token class.
struct ClassRun {
  uint32_t first = 0;
  uint32_t count = 0;
  int8_t token_class = 0;
};

// What all components of a head share.
struct HeadRuns {
  std::vector<ClassRun> all;
  std::vector<ClassRun> fitted;  // those that classes are fitted to
  int largest_class = 0;
};

std::vector<ClassRun> runs_from(const LaneOrder& order, uint32_t first) {
  std::vector<ClassRun> runs;
  for (uint32_t slot = first; slot < order.token_class.size(); ++slot) {
    if (runs.empty() || runs.back().token_class != order.token_class[slot]) {
      runs.push_back({slot, 0, order.token_class[slot]});
    }
    ++runs.back().count;
  }
  return runs;
}

std::vector<HeadRuns> runs_of_heads(const QuantizedTile& tile) {
  std::vector<HeadRuns> heads;
  for (const LaneOrder& order : tile.order) {
    HeadRuns& head = heads.emplace_back();
    head.all = runs_from(order, 0);
    head.fitted = runs_from(order, tile.tokens > kFitAll ? kLanes : 0);
    head.largest_class = *std::max_element(order.token_class.begin(), order.token_class.end());
  }
  return heads;
}

void add_runs(std::span<const int32_t> values, const std::vector<ClassRun>& runs, ComponentHistogram& histogram) {
  for (const ClassRun& run : runs) histogram.add(values.subspan(run.first, run.count), run.token_class);
}

struct ChosenClass {
  uint8_t class_byte = kDeadClass;
  uint32_t first_level = 0;  // where it comes to life
};

// The level at which some value is not zero: |q| <= (3^n - 1) / 2 is zero n levels below the finest.
uint32_t first_living_level(std::span<const int32_t> values, uint32_t levels) {
  int32_t largest = 0;
  for (const int32_t q : values) largest = std::max(largest, std::abs(q));
  uint32_t level = levels;
  for (int32_t most_zero = 0; level > 0 && largest > most_zero; --level) most_zero = 3 * most_zero + 1;
  return level;
}

ChosenClass choose_class(const QuantizedTile& tile, uint32_t component, const HeadRuns& runs,
                         const PlaneParameters& parameters) {
  thread_local ComponentHistogram histogram;
  const uint32_t levels = parameters.levels;
  histogram.clear();
  ChosenClass chosen;
  chosen.first_level = levels;
  if (tile.tokens > kFitAll) {
    chosen.first_level = first_living_level(tile.values(component).first(kLanes), levels);
    add_runs(tile.values(component), runs.fitted, histogram);
    if (histogram.all_zero() && chosen.first_level == levels) return chosen;
  }
  if (histogram.all_zero()) {
    histogram.clear();
    add_runs(tile.values(component), runs.all, histogram);
  }
  if (histogram.all_zero()) return chosen;
  uint32_t first_level = 0;
  while (histogram.all_zero_at(static_cast<int>(first_level), static_cast<int>(levels))) ++first_level;
  chosen.first_level = std::min(chosen.first_level, first_level);
  const uint8_t reference = parameters.classes[tile.head[component]][tile.index[component]];
  chosen.class_byte = histogram.best_class(parameters.scale_offset, static_cast<int>(levels), reference).first;
  return chosen;
}

// One component's values and all their ancestors, as far up as its deepest model goes.
class Ladder {
 public:
  // `q` must outlive the ladder's use.
  void climb(std::span<const int32_t> q, size_t generations) {
    padded_ = (q.size() + kLanes - 1) / kLanes * kLanes;
    const bool whole = padded_ == q.size();
    rungs_.resize((generations + 1) * padded_);
    finest_ = whole ? q.data() : rungs_.data();
    if (!whole) std::fill(std::copy(q.begin(), q.end(), rungs_.begin()), rungs_.begin() + padded_, 0);
    for (size_t g = 1; g <= generations; ++g) {
      kernels().parents(at(static_cast<int>(g) - 1, 0), padded_, &rungs_[g * padded_]);
    }
  }
  const int32_t* at(int generation, uint32_t slot) const {
    return (generation == 0 ? finest_ : &rungs_[static_cast<size_t>(generation) * padded_]) + slot;
  }

 private:
  const int32_t* finest_ = nullptr;
  size_t padded_ = 0;
  std::vector<int32_t> rungs_;  // [generation][slot]; slots padded to whole groups
};

// One level's steps in coding order, with the symbols that they code.
class LevelSteps {
 public:
  LevelSteps(uint32_t level, uint32_t levels, int scale_offset, size_t most_steps)
      : level_(static_cast<int>(level)), rungs_(static_cast<int>(levels - 1 - level)), scale_offset_(scale_offset) {
    steps_.reserve(most_steps);
    symbols_.reserve(most_steps * kLanes);
  }
  void put_group(const Ladder& ladder, uint8_t class_byte, uint32_t first, const GroupClasses& group);
  // Steps that belong together are put component by component, but coded group by group: `order` [step].
  Bytes code(uint32_t lanes) const;
  bool empty() const { return steps_.empty(); }
  const Bytes& escapes() const { return escapes_.bytes(); }

 private:
  struct MixedCodes {
    LaneRuns runs;
    std::array<const void*, 8> code;
  };
  struct Step {
    const EncodeCode* code = nullptr;  // null: mixed
    size_t mixed = 0;
  };
  uint8_t* add_step() {
    symbols_.resize(symbols_.size() + kLanes);
    return &symbols_[symbols_.size() - kLanes];
  }
  void put_symbols(const Ladder& ladder, uint8_t class_byte, uint32_t first, const GroupClasses& group);
  void put_digits(const Ladder& ladder, uint8_t class_byte, uint32_t first, const GroupClasses& group, int k);

  int level_;
  int rungs_;  // levels between this one and the finest
  int scale_offset_;
  std::vector<Step> steps_;
  std::vector<uint8_t> symbols_;  // [step][32]
  std::vector<MixedCodes> mixed_;
  ByteWriter escapes_;
};

// The largest magnitude that a table codes without escape: its frequencies fall to both sides.
int largest_coded(const SymbolModel& model) {
  static const auto kLargest = [] {
    std::array<std::array<int8_t, kSymbolScales>, kShapes> all{};
    for (size_t shape = 0; shape < kShapes; ++shape) {
      for (size_t scale = 0; scale < kSymbolScales; ++scale) {
        const uint8_t* frequency = kSymbolFrequencies[shape][scale];
        int8_t& largest = all[shape][scale];
        while (largest < kMaxSymbol && frequency[kMaxSymbol + largest + 1] > 0 &&
               frequency[kMaxSymbol - largest - 1] > 0) {
          ++largest;
        }
      }
    }
    return all;
  }();
  return kLargest[static_cast<size_t>(model.shape)][static_cast<size_t>(model.scale)];
}

// The bytes of `from` whose bit in `lanes` is set, eight at a time.
void take_lanes(uint32_t lanes, const uint8_t* from, uint8_t* into) {
  static const auto kBytesOf = [] {
    std::array<uint64_t, 256> bytes{};
    for (size_t bits = 0; bits < bytes.size(); ++bits) {
      for (size_t lane = 0; lane < 8; ++lane) bytes[bits] |= ((bits >> lane) & 1 ? uint64_t{0xff} : 0) << (8 * lane);
    }
    return bytes;
  }();
  for (size_t i = 0; i < kLanes / 8; ++i) {
    const uint64_t taken = kBytesOf[(lanes >> (8 * i)) & 0xff];
    uint64_t a;
    uint64_t b;
    std::memcpy(&a, into + 8 * i, 8);
    std::memcpy(&b, from + 8 * i, 8);
    a = (a & ~taken) | (b & taken);
    std::memcpy(into + 8 * i, &a, 8);
  }
}

void LevelSteps::put_symbols(const Ladder& ladder, uint8_t class_byte, uint32_t first, const GroupClasses& group) {
  uint8_t* symbols = add_step();
  const int32_t* values[8];
  MixedCodes mixed;
  mixed.runs = group.runs;
  uint8_t of_run[kLanes];
  for (uint32_t run = 0; run < group.runs.count; ++run) {
    const SymbolModel model = symbol_model(class_byte, scale_offset_, group.token_class[run]);
    mixed.code[run] = &entropy_codes().encode_symbols[model.shape][model.scale];
    values[run] = ladder.at(rungs_ + model.depth, first);
    if (group.uniform) {
      kernels().symbols(values[run], largest_coded(model), symbols);
    } else {
      kernels().symbols(values[run], largest_coded(model), of_run);
      take_lanes(group.runs.mask[run], of_run, symbols);
    }
  }
  if (std::memchr(symbols, kEscapeIndex, kLanes) != nullptr) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      if (symbols[lane] != kEscapeIndex) continue;
      uint32_t run = 0;
      while (((group.runs.mask[run] >> lane) & 1u) == 0) ++run;
      escapes_.write_signed_varint(values[run][lane]);
    }
  }
  if (group.uniform) {
    steps_.push_back({static_cast<const EncodeCode*>(mixed.code[0])});
  } else {
    steps_.push_back({nullptr, mixed_.size()});
    mixed_.push_back(mixed);
  }
}

// The k-th digit: of the lanes that have one within level 0, of all lanes above.
void LevelSteps::put_digits(const Ladder& ladder, uint8_t class_byte, uint32_t first, const GroupClasses& group,
                            int k) {
  if (group.uniform) {
    const SymbolModel model = symbol_model(class_byte, scale_offset_, group.token_class[0]);
    if (level_ == 0 && model.depth < k) return;
    const int generation = level_ == 0 ? rungs_ + model.depth - k : rungs_;
    kernels().digits(ladder.at(generation, first), ladder.at(generation + 1, first), add_step());
    steps_.push_back(
        {&entropy_codes().encode_digits[model.shape][model.digit_scale(level_ == 0 ? k : model.depth + k)]});
    return;
  }
  MixedCodes mixed;
  uint8_t symbols[kLanes] = {};
  uint8_t of_run[kLanes];
  for (uint32_t run = 0; run < group.runs.count; ++run) {
    const SymbolModel model = symbol_model(class_byte, scale_offset_, group.token_class[run]);
    if (level_ == 0 && model.depth < k) continue;
    const int digit = level_ == 0 ? k : model.depth + k;
    const int generation = level_ == 0 ? rungs_ + model.depth - k : rungs_;
    mixed.code[mixed.runs.count] = &entropy_codes().encode_digits[model.shape][model.digit_scale(digit)];
    mixed.runs.mask[mixed.runs.count++] = group.runs.mask[run];
    kernels().digits(ladder.at(generation, first), ladder.at(generation + 1, first), of_run);
    take_lanes(group.runs.mask[run], of_run, symbols);
  }
  if (mixed.runs.count == 0) return;
  std::memcpy(add_step(), symbols, kLanes);
  steps_.push_back({nullptr, mixed_.size()});
  mixed_.push_back(mixed);
}

int deepest_in_group(uint8_t class_byte, int scale_offset, const GroupClasses& group) {
  int deepest = 0;
  for (uint32_t run = 0; run < group.runs.count; ++run) {
    deepest = std::max(deepest, symbol_model(class_byte, scale_offset, group.token_class[run]).depth);
  }
  return deepest;
}

void LevelSteps::put_group(const Ladder& ladder, uint8_t class_byte, uint32_t first, const GroupClasses& group) {
  if (level_ > 0) {
    put_digits(ladder, class_byte, first, group, level_);
    return;
  }
  put_symbols(ladder, class_byte, first, group);
  for (int k = 1; k <= deepest_in_group(class_byte, scale_offset_, group); ++k) {
    put_digits(ladder, class_byte, first, group, k);
  }
}

Bytes LevelSteps::code(uint32_t lanes) const {
  std::vector<RansEncodeStep> steps(steps_.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i] = {steps_[i].code, nullptr, &symbols_[i * kLanes]};
    if (steps_[i].code != nullptr) continue;
    steps[i].code = mixed_[steps_[i].mixed].code.data();
    steps[i].runs = &mixed_[steps_[i].mixed].runs;
  }
  uint16_t state[kLanes];
  std::fill_n(state, kLanes, static_cast<uint16_t>(kRansLow));
  const size_t most_bytes = (steps.size() + 1) * kLanes;  // a byte per lane and step at most
  const auto reversed = std::make_unique_for_overwrite<uint8_t[]>(most_bytes);
  uint8_t* end = reversed.get() + most_bytes;
  const uint8_t* first = kernels().encode_steps(state, steps, end);
  Bytes stream(lanes * sizeof(uint16_t) + static_cast<size_t>(end - first));
  std::memcpy(stream.data(), state, lanes * sizeof(uint16_t));
  if (end != first) std::memcpy(stream.data() + lanes * sizeof(uint16_t), first, static_cast<size_t>(end - first));
  return stream;
}

// The tile's groups, [group][head].
std::vector<std::vector<GroupClasses>> groups_of(const QuantizedTile& tile) {
  std::vector<std::vector<GroupClasses>> groups;
  for (uint32_t first = 0; first < tile.tokens; first += kLanes) {
    std::vector<GroupClasses> heads;
    for (const LaneOrder& order : tile.order) heads.push_back(group_classes(order, first));
    groups.push_back(std::move(heads));
  }
  return groups;
}

Bytes encode_level(const QuantizedTile& tile, const std::vector<ChosenClass>& chosen,
                   const std::vector<std::vector<GroupClasses>>& groups, const std::vector<Ladder>& ladders,
                   uint32_t level, const PlaneParameters& parameters) {
  ClassWriter classes;
  for (uint32_t c = 0; c < tile.components(); ++c) {
    if (level > chosen[c].first_level) continue;
    const uint8_t reference = parameters.classes[tile.head[c]][tile.index[c]];
    classes.put(level == chosen[c].first_level ? chosen[c].class_byte : kDeadClass, reference);
  }
  LevelSteps steps(level, parameters.levels, parameters.scale_offset, groups.size() * tile.components());
  for (uint32_t group = 0; group < groups.size(); ++group) {
    for (uint32_t c = 0; c < tile.components(); ++c) {
      if (chosen[c].first_level > level) continue;
      steps.put_group(ladders[c], chosen[c].class_byte, group * kLanes, groups[group][tile.head[c]]);
    }
  }
  ByteWriter body;
  const Bytes class_codes = classes.finish();
  body.write_varint(class_codes.size());
  body.write_bytes(class_codes);
  if (level == 0) {
    body.write_varint(steps.escapes().size());
    body.write_bytes(steps.escapes());
  }
  if (!steps.empty()) body.write_bytes(steps.code(std::min<uint32_t>(tile.tokens, kLanes)));
  return body.take();
}

}  // namespace

std::vector<Bytes> encode_levels(QuantizedTile& tile, const PlaneParameters& parameters) {
  const auto groups = groups_of(tile);
  const std::vector<HeadRuns> runs = runs_of_heads(tile);
  std::vector<ChosenClass> chosen;
  thread_local std::vector<Ladder> ladders;  // kept for their memory
  if (ladders.size() < tile.components()) ladders.resize(tile.components());
  for (uint32_t c = 0; c < tile.components(); ++c) {
    const HeadRuns& of_head = runs[tile.head[c]];
    chosen.push_back(choose_class(tile, c, of_head, parameters));
    if (chosen[c].first_level == parameters.levels) continue;
    const int deepest = symbol_model(chosen[c].class_byte, parameters.scale_offset, of_head.largest_class).depth;
    // A level's digit needs the generation above it, too.
    ladders[c].climb(tile.values(c), parameters.levels - 1 + static_cast<size_t>(deepest));
  }
  std::vector<Bytes> bodies;
  for (uint32_t level = 0; level < parameters.levels; ++level) {
    bodies.push_back(encode_level(tile, chosen, groups, ladders, level, parameters));
  }
  return bodies;
}

}  // namespace kvpack
