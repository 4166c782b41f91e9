// SPDX-License-Identifier: Apache-2.0
// Which memory module a file holds. The file does not say, so every way to read it is tried, depth first, and those
// that form a known module and end exactly at the end of the file are kept. Real files have one such reading.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "formats/llama_state.h"

namespace kvpack {
namespace {

constexpr size_t kMaxReadings = 8;

// One letter per block: V with values, K keys only, W either (no layers), R recurrent, D and T DSV4's head and tail.
std::string pattern_of(std::span<const LlamaBlock> blocks) {
  std::string pattern;
  for (const LlamaBlock& block : blocks) {
    bool has_layers = false;
    for (const LlamaStream& stream : block.streams) has_layers = has_layers || !stream.keys.empty();
    switch (block.shape.kind) {
      case LlamaBlockKind::kKv:
        pattern += !has_layers ? 'W' : block.shape.has_v ? 'V' : 'K';
        break;
      case LlamaBlockKind::kRecurrent:
        pattern += 'R';
        break;
      case LlamaBlockKind::kDsv4Head:
        pattern += 'D';
        break;
      case LlamaBlockKind::kDsv4Tail:
        pattern += 'T';
        break;
    }
  }
  return pattern;
}

struct ModulePattern {
  std::string_view pattern;
  std::string_view name;
};
// The first that fits names the module.
constexpr ModulePattern kModules[] = {
    {"V", "unified"},      {"K", "MLA"},          {"VV", "iSWA"},       {"KK", "DSA"},          {"KKK", "DSA-iSWA"},
    {"R", "recurrent"},    {"VR", "hybrid"},      {"KR", "hybrid MLA"}, {"VVR", "hybrid-iSWA"}, {"KKR", "hybrid-iSWA"},
    {"VRK", "hybrid-idx"}, {"KRK", "hybrid-idx"}, {"DKKT", "DSV4"},
};

bool fits(std::string_view blocks, std::string_view pattern) {
  return blocks.size() == pattern.size() &&
         std::equal(blocks.begin(), blocks.end(), pattern.begin(),
                    [](char a, char b) { return a == b || (a == 'W' && (b == 'V' || b == 'K')); });
}

std::string_view base_name_of(std::string_view blocks) {
  for (const ModulePattern& module : kModules) {
    if (fits(blocks, module.pattern)) return module.name;
  }
  return "";
}

// A block without layers reads the same with and without V, one without cells also with and without ext words.
bool is_canonical(const LlamaBlock& block) {
  if (block.shape.kind != LlamaBlockKind::kKv) return true;
  bool has_cells = false;
  bool has_layers = false;
  for (const LlamaStream& stream : block.streams) {
    has_cells = has_cells || stream.cells > 0;
    has_layers = has_layers || !stream.keys.empty();
  }
  return (has_layers || !block.shape.has_v) && (has_cells || !block.shape.ext);
}

class ModuleSearch {
 public:
  ModuleSearch(bool session, uint64_t file_bytes) : session_(session), budget_(4'000'000 + file_bytes / 4) {}

  void run(const StateReader& start) {
    if (start_of_dsv4(start)) {
      extend_dsv4(start);
      return;
    }
    extend(start, {}, std::nullopt);
  }

  std::vector<std::vector<LlamaBlock>>& exact() { return exact_; }
  // The longest reading with bytes left, and a cursor at them.
  const std::optional<std::pair<std::vector<LlamaBlock>, StateReader>>& prefix() const { return prefix_; }
  const std::string& unknown_pattern() const { return unknown_; }
  bool exhausted() const { return budget_.exhausted(); }

  Error error() const {
    if (deepest_) return *deepest_;
    return corrupt("no memory module: the file ends after its token payload");
  }

  // A cut-off file must not pass as a shorter module followed by unknown bytes: `rest`, behind `blocks` blocks, begins
  // with blocks of which the last ends early.
  bool looks_cut_off(const StateReader& rest, size_t blocks) {
    if (rest.at_end() || blocks >= kMaxLlamaBlocks || !starts_like_block(rest)) return false;
    for (LlamaBlockShape shape : candidates(std::nullopt, true)) {
      const bool recurrent = shape.kind == LlamaBlockKind::kRecurrent;
      uint32_t most_layers = 1;
      if (recurrent) {
        const auto trunk_layers = read_trunk_layers(rest, shape);
        if (!trunk_layers.ok() && trunk_layers.error().kind == ErrorKind::kTruncated) return true;
        most_layers = trunk_layers.ok() ? *trunk_layers : 0;
      }
      for (uint32_t layers = 1; layers <= most_layers && !budget_.exhausted(); ++layers) {
        shape.recurrent_layers = recurrent ? layers : 0;
        StateReader reader = rest;
        const auto block = read_llama_block(reader, shape, session_, {}, budget_);
        if (block.ok() ? looks_cut_off(reader, blocks + 1) : block.error().kind == ErrorKind::kTruncated) return true;
        if (!block.ok()) break;
      }
    }
    return false;
  }

 private:
  static bool start_of_dsv4(StateReader reader) {
    const auto magic = reader.take(4, "module");
    return magic.ok() && as_text(*magic) == "DSV4";
  }

  // Blocks begin with a count of streams or cells, of which the file may hold only the first bytes.
  static bool starts_like_block(const StateReader& reader) {
    ByteReader ahead = reader.bytes_ahead();
    const auto bytes = ahead.take(std::min<uint64_t>(ahead.remaining(), 4), "count");
    uint32_t count = 0;
    std::memcpy(&count, bytes->data(), bytes->size());
    return count >= 1 && count <= kMaxLlamaStreams;
  }

  // The layer count that the file states for a recurrent block, rows or not.
  Result<uint32_t> read_trunk_layers(StateReader reader, LlamaBlockShape shape) {
    shape.recurrent_layers = 0;
    const auto counts = read_llama_block(reader, shape, session_, {}, budget_);
    if (!counts.ok()) {
      // Counts that make no sense mean another kind of block, whose own errors say more.
      if (counts.error().kind == ErrorKind::kTruncated) note(counts.error(), reader.offset());
      return counts.error();
    }
    uint32_t trunk_layers = 0;
    std::memcpy(&trunk_layers, counts->opaque.data() + counts->opaque.size() - 4, sizeof trunk_layers);
    return trunk_layers;
  }

  static std::vector<LlamaBlockShape> candidates(std::optional<bool> ext, bool recurrent) {
    std::vector<LlamaBlockShape> shapes;
    for (const bool with_ext : {false, true}) {
      if (ext.has_value() && *ext != with_ext) continue;
      for (const bool has_v : {true, false}) shapes.push_back({LlamaBlockKind::kKv, with_ext, has_v, false, 0});
    }
    for (const bool ple : {false, true}) {
      if (recurrent) shapes.push_back({LlamaBlockKind::kRecurrent, false, false, ple, 1});
    }
    return shapes;
  }

  void note(const Error& error, uint64_t offset) {
    const bool better = !deepest_ || (deepest_->kind != ErrorKind::kTruncated && error.kind == ErrorKind::kTruncated) ||
                        (deepest_->kind == error.kind && offset > deepest_offset_);
    if (!better) return;
    deepest_ = error;
    deepest_offset_ = offset;
  }

  void keep(const std::vector<LlamaBlock>& blocks, const StateReader& reader) {
    const std::string pattern = pattern_of(blocks);
    const bool known = !base_name_of(pattern).empty();
    if (reader.at_end()) {
      if (known && exact_.size() < kMaxReadings) exact_.push_back(blocks);
      if (!known && unknown_.empty()) unknown_ = pattern;
    } else if (pattern == "V" || (fits(pattern, "VV") && pattern != "WW") || pattern.back() == 'T') {
      if (!prefix_ || prefix_->second.offset() < reader.offset()) prefix_ = {blocks, reader};
    }
  }

  // All ways to go on from `reader`; cells of all blocks carry ext words, or none do.
  void extend(const StateReader& reader, const std::vector<LlamaBlock>& blocks, std::optional<bool> ext) {
    if (!blocks.empty()) keep(blocks, reader);
    if ((!blocks.empty() && reader.at_end()) || blocks.size() >= kMaxLlamaBlocks) return;
    const bool recurrent = std::none_of(blocks.begin(), blocks.end(), [](const LlamaBlock& block) {
      return block.shape.kind == LlamaBlockKind::kRecurrent;
    });
    for (const LlamaBlockShape& shape : candidates(ext, recurrent)) {
      if (exact_.size() >= kMaxReadings || budget_.exhausted()) return;
      shape.kind == LlamaBlockKind::kKv ? try_kv(reader, blocks, shape, ext)
                                        : try_recurrent(reader, blocks, shape, ext);
    }
  }

  void try_kv(StateReader reader, std::vector<LlamaBlock> blocks, const LlamaBlockShape& shape,
              std::optional<bool> ext) {
    auto block = read_llama_block(reader, shape, session_, blocks, budget_);
    if (!block.ok()) return note(block.error(), reader.offset());
    if (!is_canonical(*block)) return;
    const bool has_cells =
        std::any_of(block->streams.begin(), block->streams.end(), [](const LlamaStream& s) { return s.cells > 0; });
    if (has_cells) ext = shape.ext;
    blocks.push_back(std::move(*block));
    extend(reader, blocks, ext);
  }

  // The count of recurrent layers is not in the file, only the trunk's, which bounds it.
  void try_recurrent(const StateReader& start, const std::vector<LlamaBlock>& blocks, LlamaBlockShape shape,
                     std::optional<bool> ext) {
    const auto trunk_layers = read_trunk_layers(start, shape);
    if (!trunk_layers.ok()) return;
    for (shape.recurrent_layers = 1; shape.recurrent_layers <= *trunk_layers; ++shape.recurrent_layers) {
      if (exact_.size() >= kMaxReadings || budget_.exhausted()) return;
      StateReader reader = start;
      auto block = read_llama_block(reader, shape, session_, blocks, budget_);
      if (!block.ok()) {
        // One count too many is how every search ends; only the first failure says something about the file.
        if (shape.recurrent_layers == 1) note(block.error(), reader.offset());
        continue;
      }
      std::vector<LlamaBlock> longer = blocks;
      longer.push_back(std::move(*block));
      extend(reader, longer, ext);
    }
  }

  void extend_dsv4(StateReader reader) {
    const LlamaBlockShape keys_only{LlamaBlockKind::kKv, false, false, false, 0};
    const LlamaBlockShape shapes[] = {{LlamaBlockKind::kDsv4Head, false, false, false, 0},
                                      keys_only,
                                      keys_only,
                                      {LlamaBlockKind::kDsv4Tail, false, false, false, 0}};
    std::vector<LlamaBlock> blocks;
    for (const LlamaBlockShape& shape : shapes) {
      auto block = read_llama_block(reader, shape, session_, blocks, budget_);
      if (!block.ok()) return note(block.error(), reader.offset());
      blocks.push_back(std::move(*block));
    }
    keep(blocks, reader);
  }

  bool session_;
  WorkBudget budget_;
  std::vector<std::vector<LlamaBlock>> exact_;
  std::optional<std::pair<std::vector<LlamaBlock>, StateReader>> prefix_;
  std::string unknown_;
  std::optional<Error> deepest_;
  uint64_t deepest_offset_ = 0;
};

uint64_t cells_of(const LlamaBlock& block) {
  uint64_t cells = 0;
  for (const LlamaStream& stream : block.streams) cells += stream.cells;
  return cells;
}

std::string normalized(std::string_view architecture) {
  std::string name(architecture);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

Error no_reading(ModuleSearch& search, const LlamaState& head) {
  if (search.exhausted()) return limit_exceeded("memory module: too many ways to read the file, giving up");
  if (!search.unknown_pattern().empty()) {
    return unsupported(
        fmt::format("unknown memory module: blocks {} (V: keys and values, K: keys only, R: recurrent, "
                    "W: no layers)",
                    search.unknown_pattern()));
  }
  if (search.prefix() && head.session) {
    const StateReader& rest = search.prefix()->second;
    return corrupt(
        fmt::format("{} bytes too many after the memory module, at offset {}", rest.remaining(), rest.offset()));
  }
  return search.error().within("memory module");
}

}  // namespace

Result<std::vector<LlamaState>> search_llama_readings(ByteSpan bytes) {
  StateReader reader(bytes, StateReader::Mode::kWholeFile);
  KVPACK_ASSIGN_OR_RETURN(LlamaState head, read_llama_head(reader));
  head.total_bytes = bytes.size();
  ModuleSearch search(head.session, bytes.size());
  search.run(reader);
  std::vector<LlamaState> readings;
  for (std::vector<LlamaBlock>& blocks : search.exact()) {
    readings.push_back(head);
    readings.back().blocks = std::move(blocks);
  }
  if (!readings.empty()) return readings;
  if (search.prefix() && !head.session && search.unknown_pattern().empty() && !search.exhausted()) {
    auto [blocks, rest] = *search.prefix();
    const bool cut_off = search.looks_cut_off(rest, blocks.size());
    if (search.exhausted()) return no_reading(search, head);
    if (!cut_off) {
      head.blocks = std::move(blocks);
      KVPACK_ASSIGN_OR_RETURN(head.trailing, rest.take(rest.remaining(), "trailing bytes"));
      return std::vector<LlamaState>{std::move(head)};
    }
    return truncated(
        fmt::format("memory module: the file ends within the block that starts at offset {}", rest.offset()));
  }
  return no_reading(search, head);
}

Result<LlamaState> read_llama_state_as(StateReader reader, std::span<const LlamaBlockShape> shapes) {
  KVPACK_ASSIGN_OR_RETURN(LlamaState state, read_llama_head(reader));
  WorkBudget budget(UINT64_MAX);  // one pass over the bytes
  for (const LlamaBlockShape& shape : shapes) {
    KVPACK_ASSIGN_OR_RETURN(LlamaBlock block, read_llama_block(reader, shape, state.session, state.blocks, budget));
    state.blocks.push_back(std::move(block));
  }
  const uint64_t end = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(state.trailing, reader.take(reader.remaining(), "trailing bytes"));
  state.total_bytes = end + state.trailing.size();
  return state;
}

std::string llama_module_name(const LlamaState& state, std::string_view architecture, bool* certain) {
  const std::string_view name = base_name_of(pattern_of(state.blocks));
  const std::string by = normalized(state.architecture.empty() ? architecture : state.architecture);
  const bool ambiguous = name == "iSWA" || name == "DSA";
  // An indexer has the cells of the layers that it serves; a sliding window may have fewer.
  if (certain != nullptr) *certain = !ambiguous || !by.empty() || cells_of(state.blocks[0]) > cells_of(state.blocks[1]);
  if (name == "iSWA" && by == "minimax-m3") return "MSA";
  if (name == "DSA" && by.empty() && cells_of(state.blocks[0]) > cells_of(state.blocks[1])) return "MLA iSWA";
  const bool is_dsa = by.empty() || by == "deepseek32" || by == "deepseek-v32" || by == "glm-dsa";
  if (name == "DSA" && !is_dsa) return "MLA iSWA";
  return std::string(name);
}

std::vector<LlamaBlockRole> llama_block_roles(std::string_view module) {
  using enum LlamaBlockRole;
  if (module == "iSWA" || module == "MLA iSWA" || module == "hybrid-iSWA") return {kFull, kSliding};
  if (module == "MSA" || module == "DSA" || module == "hybrid-idx") return {kAll, kOther};
  if (module == "DSA-iSWA") return {kFull, kSliding, kOther};
  if (module == "DSV4") return {kOther, kOther};
  if (module == "recurrent") return {};
  return {kAll};
}

}  // namespace kvpack
