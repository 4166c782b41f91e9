// SPDX-License-Identifier: Apache-2.0
// KvFile -> .kvp: measure every plane once, choose parameters for a step, encode the tiles, search the step if a rate
// or an error was asked for.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>

#include "codec/archive_codec.h"
#include "codec/identity.h"
#include "codec/layer_planes.h"
#include "codec/outliers.h"
#include "codec/parallel.h"
#include "codec/parameter_choice.h"
#include "codec/rate_control.h"
#include "codec/tile.h"
#include "codec/token_weights.h"

namespace kvpack {
namespace {

// Bytes that go nowhere, counted.
class CountingSink : public ByteSink {
 public:
  Status write(ByteSpan bytes) override {
    count_ += bytes.size();
    return {};
  }
  uint64_t count() const { return count_; }

 private:
  uint64_t count_ = 0;
};

ArchiveShape shape_of(const KvTensor& tensor, const ModelFacts* facts, uint32_t chunk_tokens) {
  ArchiveShape shape;
  shape.chunk_tokens = chunk_tokens;
  for (const TokenSet& set : tensor.token_sets) shape.token_sets.push_back({set.stream, set.positions});
  for (const KvPlane& plane : tensor.planes) {
    shape.planes.push_back({plane.layer, plane.side, plane.token_set, facts != nullptr ? plane.rope : -1,
                            plane.view.kv_heads, plane.view.head_dim, plane.view.dtype, plane.view.hadamard_block});
  }
  if (facts != nullptr) shape.ropes = facts->ropes;
  return shape;
}

// [token * kv_heads + head] weights as logarithms, [kv_head][token].
std::vector<float> log_weights_by_head(const std::vector<float>& weights, uint32_t kv_heads) {
  const size_t tokens = weights.size() / kv_heads;
  std::vector<float> by_head(weights.size());
  for (uint32_t head = 0; head < kv_heads; ++head) {
    for (size_t t = 0; t < tokens; ++t) by_head[head * tokens + t] = std::log(weights[t * kv_heads + head]);
  }
  return by_head;
}

bool any_class(std::span<const int8_t> classes) {
  return std::any_of(classes.begin(), classes.end(), [](int8_t c) { return c != 0; });
}

class ArchiveEncoder {
 public:
  ArchiveEncoder(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options)
      : file_(file),
        facts_(facts),
        options_(options),
        shape_(shape_of(file.tensor, facts, options.chunk_tokens)),
        chunks_(chunks_of(shape_)) {}

  void measure_planes();
  uint64_t sink_count() const {
    uint64_t count = 0;
    for (const auto& sinks : sinks_) count += sinks.size();
    return count;
  }
  // One whole encode. `quality` is the text for the identity section.
  Status encode(const StepRule* rule, const std::string& quality, bool measure, ByteSink& sink, EncodeReport& report);

 private:
  struct LayerJob {
    uint32_t chunk = 0;
    std::vector<uint32_t> planes;  // of the tensor, the key first
  };
  const Rope* rope_of(const KvPlane& plane) const {
    return facts_ != nullptr && plane.rope >= 0 ? &shape_.ropes[static_cast<size_t>(plane.rope)] : nullptr;
  }
  void choose_all(const StepRule* rule);
  void settle(uint64_t plane, ParameterChoice choice) {
    parameters_[plane] = std::move(choice.parameters);
    forward_[plane] = std::move(choice.forward);
  }
  // Fills the job's planes in `tiles` [plane of the chunk].
  Status encode_layer(const LayerJob& job, bool measure, std::span<EncodedTile> tiles) const;
  const ProfilePlane* profile_of(uint32_t plane) const;
  void set_token_classes();
  // [kv_head][token of the chunk], or empty.
  std::vector<int8_t> classes_of_tile(uint32_t plane, const ChunkShape& chunk) const;
  Status set_sections(ArchiveWriter& writer, const std::string& quality, const EncodeReport& report) const;
  void fill_report(const std::vector<std::vector<EncodedTile>>& tiles, uint32_t levels, bool measure, EncodeReport& report) const;
  void progress(uint64_t done, uint64_t total, const std::string& phase) const {
    if (options_.progress) options_.progress(done, total, phase);
  }

  const KvFile& file_;
  const ModelFacts* facts_;
  const EncodeOptions& options_;
  ArchiveShape shape_;
  std::vector<ChunkShape> chunks_;
  std::vector<std::vector<uint32_t>> sinks_;  // [token set]
  std::vector<PlaneStatistics> statistics_;   // [plane]
  std::vector<PlaneParameters> parameters_;   // [plane]
  std::vector<std::vector<ForwardTransform>> forward_;  // [plane][kv_head]
  std::vector<std::vector<int8_t>> classes_;  // [plane][kv_head][token], or empty
  double squared_values_ = 0;
};

void ArchiveEncoder::measure_planes() {
  const auto& planes = file_.tensor.planes;
  std::vector<std::vector<float>> norms(planes.size());
  parallel_for(planes.size(), options_.threads, [&](uint64_t p) { norms[p] = token_norms(planes[p].view); });
  sinks_ = options_.sinks;
  for (uint32_t set = 0; set < shape_.token_sets.size() && options_.sinks.empty(); ++set) {
    std::vector<std::vector<float>> of_set;
    for (size_t p = 0; p < planes.size(); ++p) {
      if (planes[p].token_set == set) of_set.push_back(std::move(norms[p]));
    }
    sinks_.push_back(find_sinks(of_set));
  }
  const bool with_klt = options_.transform == TransformChoice::kAuto || options_.transform == TransformChoice::kKlt;
  statistics_.resize(planes.size());
  std::atomic<uint64_t> done{0};
  parallel_for(planes.size(), options_.threads, [&](uint64_t p) {
    const KvPlane& plane = planes[p];
    statistics_[p] = measure_plane(plane.view, rope_of(plane), shape_.token_sets[plane.token_set].positions,
                                   sinks_[plane.token_set],
                                   with_klt && profile_of(static_cast<uint32_t>(p)) == nullptr);
    progress(++done, planes.size(), "measuring");
  });
  set_token_classes();
}

const ProfilePlane* ArchiveEncoder::profile_of(uint32_t plane) const {
  if (options_.profile == nullptr || facts_ == nullptr) return nullptr;
  const PlaneShape& shape = shape_.planes[plane];
  const ProfilePlane* profile = options_.profile->plane(shape.layer, shape.side);
  const bool fits = profile != nullptr && profile->kv_heads == shape.kv_heads && profile->head_dim == shape.head_dim;
  return fits ? profile : nullptr;
}

// From the caller's weights, or the profile's regression on the keys; a layer's values have those of its keys.
void ArchiveEncoder::set_token_classes() {
  const auto& planes = file_.tensor.planes;
  classes_.assign(planes.size(), {});
  int32_t last = 0;
  for (const TokenSetShape& set : shape_.token_sets) {
    for (const int32_t position : set.positions) last = std::max(last, position);
  }
  std::vector<std::vector<float>> log_weights(planes.size());  // [plane][kv_head][token]
  std::vector<const TokenWeightModel*> models(planes.size(), nullptr);
  uint32_t most_tokens = 0;
  for (uint32_t p = 0; p < planes.size(); ++p) {
    const KvView& view = planes[p].view;
    if (!options_.token_weights.empty()) {
      log_weights[p] = log_weights_by_head(options_.token_weights[p], view.kv_heads);
    } else if (planes[p].side == Side::kKey && profile_of(p) != nullptr) {
      const TokenWeightModel* model = options_.profile->token_model(planes[p].layer);
      if (model == nullptr || model->kv_heads != view.kv_heads || model->head_dim != view.head_dim) continue;
      models[p] = model;
      log_weights[p].resize(size_t{view.kv_heads} * view.tokens);
      most_tokens = std::max(most_tokens, view.tokens);
    }
  }
  // Block by block of tokens, so that the planes share a block's RoPE angles.
  parallel_for((most_tokens + kWeightTokens - 1) / kWeightTokens, options_.threads, [&](uint64_t block) {
    for (uint32_t p = 0; p < planes.size(); ++p) {
      if (models[p] == nullptr) continue;
      predict_log_weights(planes[p].view, rope_of(planes[p]), shape_.token_sets[planes[p].token_set].positions,
                          static_cast<uint32_t>(last) + 1, *models[p], static_cast<uint32_t>(block), log_weights[p]);
    }
  });
  parallel_for(planes.size(), options_.threads, [&](uint64_t p) {
    if (log_weights[p].empty()) return;
    classes_[p] = classes_of_plane(log_weights[p], planes[p].view.kv_heads, sinks_[planes[p].token_set]);
  });
  for (const LayerPlanes& layer : layers_of_chunk(shape_.planes, 0, static_cast<uint32_t>(planes.size()))) {
    for (const uint32_t p : layer.planes) {
      const uint32_t key = layer.planes[0];
      const bool same = can_follow(shape_.planes[key], shape_.planes[p]) && planes[key].token_set == planes[p].token_set;
      if (same && classes_[p].empty()) classes_[p] = classes_[key];
    }
  }
}

std::vector<int8_t> ArchiveEncoder::classes_of_tile(uint32_t plane, const ChunkShape& chunk) const {
  std::vector<int8_t> classes;
  if (classes_.empty()) return classes;  // lossless
  const std::vector<int8_t>& all = classes_[plane];
  const uint32_t tokens = file_.tensor.planes[plane].view.tokens;
  for (size_t first = chunk.first_token; first < all.size(); first += tokens) {
    classes.insert(classes.end(), all.begin() + static_cast<ptrdiff_t>(first),
                   all.begin() + static_cast<ptrdiff_t>(first + chunk.tokens));
  }
  return classes;
}

void ArchiveEncoder::choose_all(const StepRule* rule) {
  parameters_.assign(shape_.planes.size(), {});
  forward_.assign(shape_.planes.size(), {});
  parallel_for(parameters_.size(), options_.threads, [&](uint64_t p) {
    const ProfilePlane* profile = profile_of(static_cast<uint32_t>(p));
    if (rule == nullptr) {
      parameters_[p].lossless = true;
    } else {
      const PlaneKnowledge knowledge{profile, options_.store_basis, classes_[p]};
      settle(p, choose_parameters(statistics_[p], *rule, knowledge, options_.transform, options_.low_rank));
    }
  });
}

Status ArchiveEncoder::encode_layer(const LayerJob& job, bool measure, std::span<EncodedTile> tiles) const {
  const ChunkShape& chunk = chunks_[job.chunk];
  const auto& positions = shape_.token_sets[chunk.token_set].positions;
  std::vector<int8_t> key_classes;
  uint32_t key = UINT32_MAX;
  for (const uint32_t p : job.planes) {
    TileContext context{shape_.planes[p],
                        parameters_[p],
                        rope_of(file_.tensor.planes[p]),
                        std::span(positions).subspan(chunk.first_token, chunk.tokens),
                        {}};
    if (key != UINT32_MAX && can_follow(shape_.planes[key], shape_.planes[p])) context.key_classes = key_classes;
    std::vector<uint32_t> sinks;
    for (const uint32_t token : context.parameters.lossless ? std::vector<uint32_t>{} : sinks_[chunk.token_set]) {
      if (token >= chunk.first_token && token < chunk.first_token + chunk.tokens)
        sinks.push_back(token - chunk.first_token);
    }
    const std::vector<int8_t> classes = classes_of_tile(p, chunk);
    EncodedTile& tile = tiles[p - chunk.first_plane];
    KVPACK_ASSIGN_OR_RETURN(
        tile, encode_tile(context, {file_.tensor.planes[p].view, forward_[p], chunk.first_token, sinks, classes}, measure));
    if (shape_.planes[p].side == Side::kKey && tile.quantized) {
      key = p;
      key_classes = any_class(classes) ? classes : std::vector<int8_t>{};
    }
  }
  return {};
}

void ArchiveEncoder::fill_report(const std::vector<std::vector<EncodedTile>>& tiles, uint32_t levels, bool measure,
                                 EncodeReport& report) const {
  report.raw_tiles = 0;
  report.non_finite = 0;
  report.max_error = 0;
  report.levels.assign(levels, {});
  std::vector<double> squared_error(levels, 0.0);
  double squared_values = 0;
  for (const auto& of_chunk : tiles) {
    for (const EncodedTile& tile : of_chunk) {
      report.raw_tiles += !tile.quantized && levels > 1;
      report.non_finite += tile.exact_values;
      squared_values += tile.squared_values;
      if (!measure) continue;
      for (uint32_t level = 0; level < levels; ++level) squared_error[level] += tile.distortion[level].squared_error;
      report.max_error = std::max(report.max_error, tile.distortion.back().max_error);
    }
  }
  for (uint32_t level = 0; level < levels && squared_values > 0; ++level) {
    report.levels[level].relative_error = std::sqrt(squared_error[level] / squared_values);
  }
}

Status ArchiveEncoder::set_sections(ArchiveWriter& writer, const std::string& quality,
                                    const EncodeReport& report) const {
  ArchiveIdentity identity;
  identity.creator = options_.creator;
  if (facts_ != nullptr) {
    identity.model_name = facts_->name;
    identity.model_architecture = facts_->architecture;
    identity.model_fingerprint = facts_->fingerprint;
    identity.sliding_window = facts_->sliding_window;
  }
  identity.source_format = file_.format;
  identity.source_description = file_.description;
  identity.source_module = file_.module;
  identity.source_bytes = report.input_bytes;
  identity.assumptions = file_.assumptions;
  identity.has_opaque_state = file_.has_opaque_state;
  identity.hadamard_rotated = options_.hadamard_rotated;
  identity.quality = quality;
  identity.lossless = quality == quality_name(Quality::kLossless);
  const bool uses_profile = std::any_of(parameters_.begin(), parameters_.end(), [](const PlaneParameters& parameters) {
    return parameters.transform == TransformKind::kProfile;
  });
  if (uses_profile) identity.profile_hash = options_.profile_hash;
  identity.squared_values = squared_values_;
  for (const LevelReport& level : report.levels) identity.level_errors.push_back(level.relative_error);
  identity.notes = report.notes;
  const std::string json = identity_to_json(identity);
  KVPACK_RETURN_IF_ERROR(
      writer.set_section(SectionKind::kIdentity, Bytes(as_byte_span(json).begin(), as_byte_span(json).end())));
  const ByteSpan tokens = std::as_bytes(std::span(file_.tokens));
  KVPACK_RETURN_IF_ERROR(writer.set_section(SectionKind::kTokens, Bytes(tokens.begin(), tokens.end())));
  const ByteSpan text = as_byte_span(options_.text);
  KVPACK_RETURN_IF_ERROR(writer.set_section(SectionKind::kText, Bytes(text.begin(), text.end())));
  KVPACK_RETURN_IF_ERROR(writer.set_section(SectionKind::kContainer, file_.container));
  ByteWriter all;
  for (const PlaneParameters& parameters : parameters_) {
    ByteWriter one;
    write_plane_parameters(parameters, one);
    all.write_varint(one.size());
    all.write_bytes(one.bytes());
  }
  if (uses_profile && !options_.embedded_profile.empty()) {
    const ByteSpan profile = options_.embedded_profile;
    KVPACK_RETURN_IF_ERROR(writer.set_section(SectionKind::kProfile, Bytes(profile.begin(), profile.end())));
  }
  return writer.set_section(SectionKind::kParameters, all.take());
}

Status ArchiveEncoder::encode(const StepRule* rule, const std::string& quality, bool measure, ByteSink& sink,
                              EncodeReport& report) {
  choose_all(rule);
  const uint32_t levels = rule == nullptr ? 1 : rule->levels;
  std::vector<LayerJob> jobs;
  std::vector<std::vector<EncodedTile>> tiles;  // [chunk][plane of the chunk]
  for (uint32_t c = 0; c < chunks_.size(); ++c) {
    tiles.emplace_back(chunks_[c].planes);
    for (LayerPlanes& layer : layers_of_chunk(shape_.planes, chunks_[c].first_plane, chunks_[c].planes)) {
      jobs.push_back({c, std::move(layer.planes)});
    }
  }
  std::vector<Status> statuses(jobs.size());
  std::atomic<uint64_t> done{0};
  const std::string phase = report.passes > 1 ? fmt::format("encoding, pass {}", report.passes) : "encoding";
  parallel_for(jobs.size(), options_.threads, [&](uint64_t j) {
    statuses[j] = encode_layer(jobs[j], measure, tiles[jobs[j].chunk]);
    progress(++done, jobs.size(), phase);
  });
  for (size_t j = 0; j < jobs.size(); ++j) {
    if (!statuses[j].ok()) return statuses[j].error().within(fmt::format("chunk {}", jobs[j].chunk));
  }
  squared_values_ = 0;
  for (auto& of_chunk : tiles) {
    for (EncodedTile& tile : of_chunk) {
      squared_values_ += tile.squared_values;
      // A lossless plane in an archive of several levels (its step was out of range) has empty refinements.
      tile.levels.resize(levels);
      if (measure) tile.distortion.resize(levels, tile.distortion.back());
    }
  }
  fill_report(tiles, levels, measure, report);

  ArchiveWriter writer(shape_, levels);
  for (uint32_t c = 0; c < tiles.size(); ++c) {
    for (uint32_t p = 0; p < tiles[c].size(); ++p) {
      for (uint32_t level = 0; level < levels; ++level) {
        const double distortion = measure ? tiles[c][p].distortion[level].squared_error : 0;
        Bytes bytes = std::move(tiles[c][p].levels[level]);
        report.levels[level].bytes += bytes.size();
        KVPACK_RETURN_IF_ERROR(
            writer.add_tile(c, p, level, std::move(bytes), static_cast<float>(std::min(distortion, 1e38))));
      }
    }
  }
  KVPACK_RETURN_IF_ERROR(set_sections(writer, quality, report));
  return writer.finish(sink);
}

Status check_options(const KvFile& file, const EncodeOptions& options) {
  const int targets = options.bits_per_value.has_value() + options.ratio.has_value() + options.max_error.has_value();
  if (targets > 1) return invalid_argument("only one of bits, ratio and max-error can be asked for");
  for (const auto& target : {options.bits_per_value, options.ratio, options.max_error}) {
    if (target && !(*target > 0 && std::isfinite(*target))) {
      return invalid_argument(fmt::format("bits, ratio and max-error must be positive numbers, not {}", *target));
    }
  }
  if (options.chunk_tokens < 1 || options.chunk_tokens > kMaxChunkTokens) {
    return invalid_argument(fmt::format("chunk tokens must be 1..{}, not {}", kMaxChunkTokens, options.chunk_tokens));
  }
  if (options.levels && (*options.levels < 1 || *options.levels > kMaxLevels)) {
    return invalid_argument(fmt::format("levels must be 1..{}, not {}", kMaxLevels, *options.levels));
  }
  if (options.low_rank > kMaxLowRank) return invalid_argument(fmt::format("low rank must be 0..{}", kMaxLowRank));
  if (!options.sinks.empty() && options.sinks.size() != file.tensor.token_sets.size()) {
    return invalid_argument(fmt::format("sinks of {} token sets, the file has {}", options.sinks.size(),
                                        file.tensor.token_sets.size()));
  }
  for (size_t s = 0; s < options.sinks.size(); ++s) {
    const auto tokens = static_cast<uint32_t>(file.tensor.token_sets[s].positions.size());
    const auto& sinks = options.sinks[s];
    const bool ascending = std::adjacent_find(sinks.begin(), sinks.end(), std::greater_equal<>()) == sinks.end();
    if (!ascending || (!sinks.empty() && sinks.back() >= tokens)) {
      return invalid_argument(fmt::format("the sinks of token set {} are no ascending tokens below {}", s, tokens));
    }
  }
  if (options.token_weights.empty()) return {};
  if (options.token_weights.size() != file.tensor.planes.size()) {
    return invalid_argument(fmt::format("token weights for {} planes, the file has {}", options.token_weights.size(),
                                        file.tensor.planes.size()));
  }
  for (size_t p = 0; p < options.token_weights.size(); ++p) {
    const KvView& view = file.tensor.planes[p].view;
    const size_t expected = size_t{view.tokens} * view.kv_heads;
    if (!options.token_weights[p].empty() && options.token_weights[p].size() != expected) {
      return invalid_argument(
          fmt::format("plane {} has {} token weights, {} expected", p, options.token_weights[p].size(), expected));
    }
  }
  return {};
}

void finish_report(const KvFile& file, uint64_t archive_bytes, EncodeReport& report) {
  report.archive_bytes = archive_bytes;
  report.values = file.tensor.values();
  report.value_bytes = file.tensor.raw_bytes();
  uint64_t refinements = 0;
  for (const LevelReport& level : report.levels) refinements += level.bytes;
  uint64_t cumulative = archive_bytes - refinements;
  for (LevelReport& level : report.levels) {
    cumulative += level.bytes;
    level.cumulative_bytes = cumulative;
    if (report.values > 0)
      level.bits_per_value = 8.0 * static_cast<double>(cumulative) / static_cast<double>(report.values);
  }
  if (report.values > 0)
    report.bits_per_value = 8.0 * static_cast<double>(archive_bytes) / static_cast<double>(report.values);
  report.ratio = static_cast<double>(report.input_bytes) / static_cast<double>(std::max<uint64_t>(1, archive_bytes));
}

std::string target_name(const EncodeOptions& options) {
  if (options.bits_per_value) return fmt::format("bits {}", *options.bits_per_value);
  if (options.ratio) return fmt::format("ratio {}", *options.ratio);
  return fmt::format("max-error {}", *options.max_error);
}

// The rule that meets the options' target; no value means lossless.
Result<std::optional<StepRule>> rule_for_target(const KvFile& file, const EncodeOptions& options,
                                                ArchiveEncoder& encoder, EncodeReport& report) {
  SearchTarget target;
  const double values = static_cast<double>(file.tensor.values());
  if (options.bits_per_value) target.most_bytes = *options.bits_per_value * values / 8;
  if (options.ratio) target.most_bytes = static_cast<double>(report.input_bytes) / *options.ratio;
  target.largest_error = options.max_error;
  double smallest = 0;
  const auto trial = [&](const StepRule& rule, bool with_error) -> Result<Trial> {
    CountingSink sink;
    KVPACK_RETURN_IF_ERROR(encoder.encode(&rule, target_name(options), with_error, sink, report));
    ++report.passes;
    const Trial result{static_cast<double>(sink.count()), report.max_error};
    smallest = smallest == 0 ? result.bytes : std::min(smallest, result.bytes);
    return result;
  };
  KVPACK_ASSIGN_OR_RETURN(std::optional<StepRule> rule, search_step(target, values, trial));
  if (rule) return rule;
  if (options.max_error) {
    report.notes.push_back(
        fmt::format("max-error {} is below what the stored type can hold: encoded losslessly", *options.max_error));
    return rule;
  }
  return invalid_argument(
      fmt::format("{} cannot be reached: the smallest archive is {} bytes, {:.3f} bits per value, "
                  "ratio {:.2f}",
                  target_name(options), smallest, 8 * smallest / std::max(1.0, values),
                  static_cast<double>(report.input_bytes) / smallest));
}

}  // namespace

Result<EncodeReport> encode_archive(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options,
                                    ByteSink& sink) {
  KVPACK_RETURN_IF_ERROR(check_options(file, options));
  EncodeReport report;
  report.input_bytes = file.tensor.storage != nullptr ? file.tensor.storage->size() : file.tensor.raw_bytes();
  const bool searching = options.bits_per_value || options.ratio || options.max_error;
  const bool lossy = searching || options.quality != Quality::kLossless;
  const bool any_rope = std::any_of(file.tensor.planes.begin(), file.tensor.planes.end(),
                                    [](const KvPlane& plane) { return plane.rope >= 0; });
  if (facts == nullptr && lossy) {
    report.notes.push_back("no model was given: keys are kept as they are (RoPE not undone), the archive is larger");
  } else if (facts != nullptr && lossy && !any_rope && !file.tensor.planes.empty()) {
    report.notes.push_back(facts->note.empty() ? "keys are taken as they are: the model's RoPE is unknown or none"
                                               : facts->note);
  }
  if (lossy && file.has_opaque_state) report.notes.push_back("state that is not attention KV is kept exactly");

  ArchiveEncoder encoder(file, facts, options);
  if (lossy) encoder.measure_planes();
  std::optional<StepRule> rule;
  if (searching) {
    KVPACK_ASSIGN_OR_RETURN(rule, rule_for_target(file, options, encoder, report));
  } else if (lossy) {
    rule = step_rule_of(options.quality);
    if (options.levels) rule->levels = *options.levels;
  }
  const std::string quality = !rule       ? std::string(quality_name(Quality::kLossless))
                              : searching ? target_name(options)
                                          : std::string(quality_name(options.quality));
  CountingSink counter;
  class Tee : public ByteSink {
   public:
    Tee(ByteSink& first, ByteSink& second) : first_(first), second_(second) {}
    Status write(ByteSpan bytes) override {
      KVPACK_RETURN_IF_ERROR(first_.write(bytes));
      return second_.write(bytes);
    }

   private:
    ByteSink& first_;
    ByteSink& second_;
  } tee(counter, sink);
  KVPACK_RETURN_IF_ERROR(encoder.encode(rule ? &*rule : nullptr, quality, true, tee, report));
  report.sinks = encoder.sink_count();
  finish_report(file, counter.count(), report);
  return report;
}

}  // namespace kvpack
