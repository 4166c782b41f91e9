// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/bench_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

#include "codec/parameter_choice.h"
#include "codec/profile_file.h"
#include "codec/tile_symbols.h"
#include "formats/model_facts.h"

namespace kvpack::bench {

namespace {

constexpr uint32_t kTileTokens = 224;

// `path`: from here, or from samples/.
Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) file.open(std::string(KVPACK_SAMPLES_DIR) + "/" + path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const ByteSpan bytes = as_byte_span(text);
  return {bytes.begin(), bytes.end()};
}

double channel_entropy_bits(const std::map<int32_t, uint32_t>& counts) {
  double total = 0;
  double bits = 0;
  for (const auto& [value, n] : counts) total += n;
  for (const auto& [value, n] : counts) bits += n * std::log2(total / n);
  return bits;
}

// The tile's own symbols, and how many bits they need at least.
void measure_symbols(const TileContext& context, const Bytes& tile, TileSet& set) {
  // mode, exact values 0, exact tokens 0, token class flag 0
  const ByteSpan body = ByteSpan(tile).subspan(4);
  std::vector<LaneOrder> order(context.shape.kv_heads, lane_order({}, kTileTokens));
  TileSymbols symbols;
  const ByteSpan bodies[] = {body};
  require(symbols.open(bodies, context.parameters, context.shape, order, kTileTokens));
  const uint32_t channels = context.shape.channels();
  std::vector<std::map<int32_t, uint32_t>> counts(channels);
  const size_t first = set.symbols.size();
  set.symbols.resize(first + size_t{channels} * kTileTokens);
  for (uint32_t group = 0; group < symbols.groups(); ++group) {
    require(symbols.decode_group(group));
    for (uint32_t c = 0; c < channels; ++c) {
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        const int32_t q = symbols.values(c)[lane];
        ++counts[c][q];
        set.symbols[first + size_t{c} * kTileTokens + group * kLanes + lane] =
            static_cast<uint8_t>(q >= -7 && q <= 7 ? q + 7 : 15);
      }
    }
  }
  require(symbols.finish());
  for (const auto& of_channel : counts) set.entropy_bytes += channel_entropy_bits(of_channel) / 8;
  ByteReader in(body);
  set.class_bytes += require(in.read_varint("class bytes"));
}

std::unique_ptr<TileSet> make_tile_set(double step) {
  auto set = std::make_unique<TileSet>();
  for (uint32_t t = 0; t < kTileTokens; ++t) set->positions.push_back(static_cast<int32_t>(t));
  std::vector<std::vector<ForwardTransform>> forward;  // [plane]
  for (const KvPlane& plane : sample_file().tensor.planes) {
    // Token 0 is the attention sink, kept aside by a real encode.
    const KvView view = slice_tokens(plane.view, 1, kTileTokens);
    set->shapes.push_back({plane.layer, plane.side, 0, -1, view.kv_heads, view.head_dim, DType::kF16, 0});
    StepRule rule;
    rule.per_deviation = step;
    const PlaneStatistics stats = measure_plane(view, nullptr, set->positions, {}, false);
    ParameterChoice choice = choose_parameters(stats, rule, {}, TransformChoice::kNone, 0);
    set->parameters.push_back(std::move(choice.parameters));
    forward.push_back(std::move(choice.forward));
  }
  for (size_t p = 0; p < set->shapes.size(); ++p) {
    const KvView view = slice_tokens(sample_file().tensor.planes[p].view, 1, kTileTokens);
    const TileContext context{set->shapes[p], set->parameters[p], nullptr, set->positions, {}};
    EncodedTile tile = require(encode_tile(context, {view, forward[p], 0, {}, {}, 0}, Measuring::kNone));
    set->tiles.push_back(std::move(tile.levels[0]));
    set->coded_bytes += set->tiles.back().size();
    set->values += uint64_t{kTileTokens} * set->shapes[p].channels();
    measure_symbols(context, set->tiles.back(), *set);
  }
  return set;
}

}  // namespace

const ModelFacts& sample_facts() {
  static const ModelFacts kFacts =
      require(read_model_facts(std::string(KVPACK_SAMPLES_DIR) + "/smollm2-135m.model.json"));
  return kFacts;
}

const Profile& sample_profile() {
  static const Profile kProfile = require(read_profile(read_file("profiles/smollm2-135m.kvprofile"), "the profile"));
  return kProfile;
}

const KvFile& sample_file() {
  static const KvFile kFile = [] {
    KvReadOptions options;
    options.facts = &sample_facts();
    return require(read_kv_file(read_file(sample_path()), options));
  }();
  return kFile;
}

std::string sample_path() {
  const char* larger = std::getenv("KVPACK_BENCH_STATE");
  return larger != nullptr ? larger : "smollm2-harbour.slot.bin";
}

const std::vector<Bytes>& sample_rows(DType dtype) {
  static std::map<DType, std::vector<Bytes>> all;
  std::vector<Bytes>& rows = all[dtype];
  if (!rows.empty()) return rows;
  for (const KvPlane& plane : sample_file().tensor.planes) {
    const KvView& view = plane.view;
    std::vector<float> values(size_t{view.tokens} * view.channels());
    load_values(view, 0, view.tokens, values.data());
    Bytes stored(values.size() * dtype_block_bytes(dtype));
    store_values(make_row_view<std::byte>(stored.data(), dtype, view.tokens, view.kv_heads, view.head_dim), 0,
                 view.tokens, values.data());
    rows.push_back(std::move(stored));
  }
  return rows;
}

const TileSet& tile_set(double step) {
  static std::map<double, std::unique_ptr<TileSet>> all;
  std::unique_ptr<TileSet>& set = all[step];
  if (set == nullptr) set = make_tile_set(step);
  return *set;
}

}  // namespace kvpack::bench
