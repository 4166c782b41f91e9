// SPDX-License-Identifier: Apache-2.0
#include "codec/archive_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "codec/encode_report.h"
#include "codec/identity.h"
#include "codec/layer_planes.h"
#include "codec/outliers.h"
#include "codec/parallel.h"
#include "codec/token_weights.h"

namespace kvpack {
namespace {

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

}  // namespace

ArchiveEncoder::ArchiveEncoder(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options)
    : file_(file),
      facts_(facts),
      options_(options),
      shape_(shape_of(file.tensor, facts, options.chunk_tokens)),
      chunks_(chunks_of(shape_)) {}

void ArchiveEncoder::find_all_sinks() {
  sinks_ = options_.sinks;
  if (!sinks_.empty()) return;
  const auto& planes = file_.tensor.planes;
  std::vector<std::vector<float>> norms(planes.size());
  parallel_for(planes.size(), options_.threads, [&](uint64_t p) { norms[p] = token_norms(planes[p].view); });
  for (uint32_t set = 0; set < shape_.token_sets.size(); ++set) {
    std::vector<std::vector<float>> of_set;
    for (size_t p = 0; p < planes.size(); ++p) {
      if (planes[p].token_set == set) of_set.push_back(std::move(norms[p]));
    }
    sinks_.push_back(find_sinks(of_set));
  }
}

PlaneStatistics ArchiveEncoder::measure(uint64_t p) const {
  const bool with_klt = options_.transform == TransformChoice::kAuto || options_.transform == TransformChoice::kKlt;
  const KvPlane& plane = file_.tensor.planes[p];
  return measure_plane(plane.view, rope_of(plane), shape_.token_sets[plane.token_set].positions,
                       sinks_[plane.token_set], with_klt && profile_of(static_cast<uint32_t>(p)) == nullptr);
}

void ArchiveEncoder::prepare(bool keep_statistics) {
  find_all_sinks();
  set_token_classes();
  if (!keep_statistics) return;
  statistics_.resize(shape_.planes.size());
  std::atomic<uint64_t> done{0};
  parallel_for(statistics_.size(), options_.threads, [&](uint64_t p) {
    statistics_[p] = measure(p);
    progress(++done, statistics_.size(), "measuring");
  });
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
      const bool same =
          can_follow(shape_.planes[key], shape_.planes[p]) && planes[key].token_set == planes[p].token_set;
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

ParameterChoice ArchiveEncoder::choose(const StepRule& rule, uint64_t p, const PlaneStatistics& statistics) const {
  const PlaneKnowledge knowledge{profile_of(static_cast<uint32_t>(p)), options_.store_basis, classes_[p]};
  return choose_parameters(statistics, rule, knowledge, options_.transform, options_.low_rank);
}

void ArchiveEncoder::choose_all(const StepRule* rule) {
  parameters_.assign(shape_.planes.size(), {});
  forward_.assign(shape_.planes.size(), {});
  std::atomic<uint64_t> done{0};
  parallel_for(parameters_.size(), options_.threads, [&](uint64_t p) {
    if (rule == nullptr) {
      parameters_[p].lossless = true;
    } else if (!statistics_.empty()) {
      settle(p, choose(*rule, p, statistics_[p]));
    } else {
      settle(p, choose(*rule, p, measure(p)));
      progress(++done, parameters_.size(), "measuring");
    }
  });
}

Status ArchiveEncoder::encode_layer(const LayerJob& job, Measuring measuring, std::span<EncodedTile> tiles) const {
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
    // A bound on single errors is met sooner without.
    const bool diffuse = shape_.planes[p].side == Side::kValue && !options_.max_error;
    const float feedback = diffuse ? kValueErrorFeedback : 0.0f;
    EncodedTile& tile = tiles[p - chunk.first_plane];
    KVPACK_ASSIGN_OR_RETURN(
        tile,
        encode_tile(context, {file_.tensor.planes[p].view, forward_[p], chunk.first_token, sinks, classes, feedback},
                    measuring));
    if (shape_.planes[p].side == Side::kKey && tile.quantized) {
      key = p;
      key_classes = any_class(classes) ? classes : std::vector<int8_t>{};
    }
  }
  return {};
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
  identity.squared_values = report.squared_values;
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

Status ArchiveEncoder::encode_tiles(uint32_t levels, Measuring measuring, const std::string& phase,
                                    ArchiveWriter& writer, std::vector<std::vector<EncodedTile>>& tiles) {
  std::vector<LayerJob> jobs;
  for (uint32_t c = 0; c < chunks_.size(); ++c) {
    tiles.emplace_back(chunks_[c].planes);
    for (LayerPlanes& layer : layers_of_chunk(shape_.planes, chunks_[c].first_plane, chunks_[c].planes)) {
      jobs.push_back({c, std::move(layer.planes)});
    }
  }
  const auto hand_over = [&](uint32_t chunk, uint32_t plane, EncodedTile& tile) -> Status {
    // A lossless plane in an archive of several levels (its step was out of range) has empty refinements.
    tile.levels.resize(levels);
    writer.require_features(tile.required_features);
    if (measuring != Measuring::kNone) tile.distortion.resize(levels, tile.distortion.back());
    for (uint32_t level = 0; level < levels; ++level) {
      const double distortion =
          measuring != Measuring::kNone ? std::min(tile.distortion[level].squared_error, 1e38) : 0;
      KVPACK_RETURN_IF_ERROR(
          writer.add_tile(chunk, plane, level, std::move(tile.levels[level]), static_cast<float>(distortion)));
    }
    tile.levels = {};
    return {};
  };
  std::vector<Status> statuses(jobs.size());
  std::atomic<uint64_t> done{0};
  std::atomic<bool> failed{false};
  parallel_for(jobs.size(), options_.threads, [&](uint64_t j) {
    if (failed) return;
    const uint32_t chunk = jobs[j].chunk;
    statuses[j] = encode_layer(jobs[j], measuring, tiles[chunk]);
    for (const uint32_t p : jobs[j].planes) {
      const uint32_t in_chunk = p - chunks_[chunk].first_plane;
      if (statuses[j].ok()) statuses[j] = hand_over(chunk, in_chunk, tiles[chunk][in_chunk]);
    }
    if (!statuses[j].ok()) failed = true;
    progress(++done, jobs.size(), phase);
  });
  for (size_t j = 0; j < jobs.size(); ++j) {
    if (!statuses[j].ok()) return statuses[j].error().within(fmt::format("chunk {}", jobs[j].chunk));
  }
  return {};
}

Result<ArchiveSizes> ArchiveEncoder::encode(const StepRule* rule, const std::string& quality, Measuring measuring,
                                            ByteSink* sink, EncodeReport& report) {
  choose_all(rule);
  const uint32_t levels = rule == nullptr ? 1 : rule->levels;
  ArchiveWriter writer(shape_, levels, sink == nullptr ? TileKeeping::kSizes : TileKeeping::kSpill,
                       options_.spill_folder);
  std::vector<std::vector<EncodedTile>> tiles;
  const std::string phase = report.passes > 1 ? fmt::format("encoding, pass {}", report.passes) : "encoding";
  KVPACK_RETURN_IF_ERROR(encode_tiles(levels, measuring, phase, writer, tiles));
  report_tiles(tiles, levels, measuring, report);
  KVPACK_RETURN_IF_ERROR(set_sections(writer, quality, report));
  MemorySink nowhere;
  return writer.finish(sink == nullptr ? nowhere : *sink);
}

}  // namespace kvpack
