// SPDX-License-Identifier: Apache-2.0
#include "codec/archive_chunks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <mutex>

#include "codec/layer_planes.h"
#include "codec/parallel.h"
#include "codec/plane_parameters.h"
#include "codec/tile.h"

namespace kvpack {
namespace {

// Chunks whose layers are handed out together: threads wait for each other only once in so many.
constexpr size_t kBatchChunks = 64;

Result<uint32_t> levels_to_decode(const ArchiveReader& reader, const DecodeOptions& options) {
  const uint32_t levels = reader.directory().levels;
  if (!options.level) return levels;
  if (*options.level >= levels) {
    return invalid_argument(
        fmt::format("level {} was asked for, the archive has levels 0 to {}", *options.level, levels - 1));
  }
  return *options.level + 1;
}

// One chunk on its way: its coded bytes are read when its first layer is begun and dropped after its last.
struct OpenChunk {
  DecodeStep step;
  std::vector<bool> wanted;  // [plane of the chunk]
  std::once_flag read;
  Status status;                          // of reading
  std::vector<ArchiveBlock> blocks;       // [level], if all planes are wanted; else
  std::vector<std::vector<Bytes>> tiles;  // [level][plane of the chunk]
  std::atomic<size_t> layers_left{0};
};

// Neighbouring layers of a chunk, whose tiles' entropy coders run in lockstep.
struct LayersJob {
  OpenChunk* chunk = nullptr;
  std::vector<const LayerPlanes*> layers;
};
constexpr size_t kLayersTogether = kTilesTogether / 2;

class ChunkDecoder {
 public:
  ChunkDecoder(const ArchiveReader& reader, const DecodeOptions& options, std::vector<PlaneParameters> parameters,
               const std::function<bool(const ChunkShape&, const PlaneShape&)>& wanted, const TileSink& sink)
      : reader_(reader), options_(options), parameters_(std::move(parameters)), wanted_(wanted), sink_(sink) {
    for (const ChunkShape& chunk : reader.directory().chunks) {
      if (chunk.token_set < layers_.size()) continue;
      layers_.resize(chunk.token_set + 1);
      layers_.back() = layers_of_chunk(reader.shape().planes, chunk.first_plane, chunk.planes);
    }
  }
  Status decode(std::span<const DecodeStep> steps);

 private:
  const ChunkShape& shape_of(const OpenChunk& chunk) const { return reader_.directory().chunks[chunk.step.chunk]; }
  TileContext context_of(const ChunkShape& chunk, uint32_t plane) const;
  // One read per level, or one per wanted tile.
  Status read(OpenChunk& chunk);
  Result<std::vector<ByteSpan>> tiles_of(const OpenChunk& chunk, uint32_t plane) const;
  Result<std::vector<int8_t>> key_classes(const OpenChunk& chunk, uint32_t key);
  Status decode_layers(OpenChunk& chunk, std::span<const LayerPlanes* const> layers);
  Status decode_together(const OpenChunk& chunk, std::span<const uint32_t> planes);
  Status decode_one(const OpenChunk& chunk, uint32_t plane, std::optional<uint32_t> key);
  Status finish(const ChunkShape& chunk, uint32_t plane, const Bytes& scratch) const {
    return sink_.finished ? sink_.finished(chunk, plane, scratch) : Status();
  }
  Error in_plane(const Error& error, const OpenChunk& chunk, uint32_t plane) const {
    const PlaneShape& at = reader_.shape().planes[plane];
    return error.within(fmt::format("chunk {}, layer {} {}", chunk.step.chunk, at.layer, side_name(at.side)));
  }

  const ArchiveReader& reader_;
  const DecodeOptions& options_;
  const std::vector<PlaneParameters> parameters_;
  const std::function<bool(const ChunkShape&, const PlaneShape&)>& wanted_;
  const TileSink& sink_;
  std::vector<std::vector<LayerPlanes>> layers_;  // [token set]
  std::mutex reading_;                            // a source serves one thread at a time
  std::atomic<uint64_t> chunks_done_{0};
};

TileContext ChunkDecoder::context_of(const ChunkShape& chunk, uint32_t plane) const {
  const ArchiveShape& shape = reader_.shape();
  const PlaneShape& of = shape.planes[plane];
  const Rope* rope = of.rope >= 0 ? &shape.ropes[static_cast<size_t>(of.rope)] : nullptr;
  const auto positions = std::span(shape.token_sets[chunk.token_set].positions);
  return {of, parameters_[plane], rope, positions.subspan(chunk.first_token, chunk.tokens), {}};
}

Status ChunkDecoder::read(OpenChunk& chunk) {
  const std::lock_guard lock(reading_);
  const bool all = std::all_of(chunk.wanted.begin(), chunk.wanted.end(), [](bool w) { return w; });
  for (uint32_t level = 0; level < chunk.step.levels; ++level) {
    if (all) {
      KVPACK_ASSIGN_OR_RETURN(ArchiveBlock block, reader_.block(level, chunk.step.chunk));
      chunk.blocks.push_back(std::move(block));
      continue;
    }
    std::vector<Bytes> of_level(chunk.wanted.size());
    for (uint32_t p = 0; p < chunk.wanted.size(); ++p) {
      if (!chunk.wanted[p]) continue;
      KVPACK_ASSIGN_OR_RETURN(of_level[p], reader_.tile(level, chunk.step.chunk, p));
    }
    chunk.tiles.push_back(std::move(of_level));
  }
  return {};
}

Result<std::vector<ByteSpan>> ChunkDecoder::tiles_of(const OpenChunk& chunk, uint32_t plane) const {
  const uint32_t in_chunk = plane - shape_of(chunk).first_plane;
  std::vector<ByteSpan> tiles;
  for (const ArchiveBlock& block : chunk.blocks) {
    KVPACK_ASSIGN_OR_RETURN(const ByteSpan tile, block.tile(in_chunk));
    tiles.push_back(tile);
  }
  for (const auto& level : chunk.tiles) tiles.emplace_back(level[in_chunk]);
  return tiles;
}

// The token classes of a layer's key tile, read from the archive if that plane itself is not wanted.
Result<std::vector<int8_t>> ChunkDecoder::key_classes(const OpenChunk& chunk, uint32_t key) {
  const TileContext context = context_of(shape_of(chunk), key);
  const uint32_t in_chunk = key - shape_of(chunk).first_plane;
  if (context.parameters.lossless) return std::vector<int8_t>{};
  if (chunk.wanted[in_chunk]) {
    KVPACK_ASSIGN_OR_RETURN(const std::vector<ByteSpan> tiles, tiles_of(chunk, key));
    return read_tile_token_classes(context, tiles[0]);
  }
  const std::lock_guard lock(reading_);
  KVPACK_ASSIGN_OR_RETURN(const Bytes tile, reader_.tile(0, chunk.step.chunk, in_chunk));
  return read_tile_token_classes(context, tile);
}

// Whole layers, K before V or either alone.
Status ChunkDecoder::decode_together(const OpenChunk& chunk, std::span<const uint32_t> planes) {
  thread_local std::array<Bytes, kTilesTogether> scratch;
  const ChunkShape& shape = shape_of(chunk);
  std::vector<TileContext> contexts;
  std::vector<std::vector<ByteSpan>> levels;
  for (const uint32_t plane : planes) {
    contexts.push_back(context_of(shape, plane));
    auto tiles = tiles_of(chunk, plane);
    if (!tiles.ok()) return in_plane(tiles.error(), chunk, plane);
    levels.push_back(std::move(*tiles));
  }
  std::vector<TileJob> jobs;
  jobs.reserve(planes.size());
  for (size_t i = 0; i < planes.size(); ++i) {
    const bool follows = i > 0 && can_follow(contexts[i - 1].shape, contexts[i].shape);
    jobs.push_back(
        {contexts[i], levels[i], sink_.rows(shape, planes[i], scratch[i]), follows ? &jobs[i - 1] : nullptr});
  }
  const auto statuses = decode_tiles(jobs);
  for (size_t i = 0; i < planes.size(); ++i) {
    if (!statuses[i].ok()) return in_plane(statuses[i].error(), chunk, planes[i]);
  }
  for (size_t i = 0; i < planes.size(); ++i) KVPACK_RETURN_IF_ERROR(finish(shape, planes[i], scratch[i]));
  return {};
}

// `key`: the plane whose token classes this one may take.
Status ChunkDecoder::decode_one(const OpenChunk& chunk, uint32_t plane, std::optional<uint32_t> key) {
  thread_local Bytes scratch;
  const ChunkShape& shape = shape_of(chunk);
  TileContext context = context_of(shape, plane);
  std::vector<int8_t> classes;
  if (key) {
    auto of_key = key_classes(chunk, *key);
    if (!of_key.ok()) return in_plane(of_key.error(), chunk, plane);
    classes = std::move(*of_key);
    context.key_classes = classes;
  }
  const auto levels = tiles_of(chunk, plane);
  if (!levels.ok()) return in_plane(levels.error(), chunk, plane);
  const Status status = decode_tile(context, *levels, sink_.rows(shape, plane, scratch));
  return status.ok() ? finish(shape, plane, scratch) : in_plane(status.error(), chunk, plane);
}

Status ChunkDecoder::decode_layers(OpenChunk& chunk, std::span<const LayerPlanes* const> layers) {
  std::call_once(chunk.read, [&] { chunk.status = read(chunk); });
  KVPACK_RETURN_IF_ERROR(chunk.status);
  const uint32_t first = shape_of(chunk).first_plane;
  std::vector<uint32_t> together;
  for (const LayerPlanes* layer : layers) {
    const bool whole = layer->planes.size() <= 2 && std::all_of(layer->planes.begin(), layer->planes.end(),
                                                                [&](uint32_t p) { return chunk.wanted[p - first]; });
    if (whole) {
      together.insert(together.end(), layer->planes.begin(), layer->planes.end());
      continue;
    }
    const uint32_t key = layer->planes[0];
    for (const uint32_t plane : layer->planes) {
      if (!chunk.wanted[plane - first]) continue;
      const bool follows = plane != key && can_follow(reader_.shape().planes[key], reader_.shape().planes[plane]);
      KVPACK_RETURN_IF_ERROR(decode_one(chunk, plane, follows ? std::optional(key) : std::nullopt));
    }
  }
  return together.empty() ? Status() : decode_together(chunk, together);
}

Status ChunkDecoder::decode(std::span<const DecodeStep> steps) {
  std::deque<OpenChunk> open;
  std::vector<LayersJob> jobs;
  for (const DecodeStep& step : steps) {
    OpenChunk& chunk = open.emplace_back();
    chunk.step = step;
    const ChunkShape& shape = shape_of(chunk);
    for (uint32_t p = 0; p < shape.planes; ++p) {
      chunk.wanted.push_back(wanted_(shape, reader_.shape().planes[shape.first_plane + p]));
    }
    for (const LayerPlanes& layer : layers_[shape.token_set]) {
      const bool any = std::any_of(layer.planes.begin(), layer.planes.end(),
                                   [&](uint32_t plane) { return chunk.wanted[plane - shape.first_plane]; });
      if (!any) continue;
      ++chunk.layers_left;
      const bool joins = !jobs.empty() && jobs.back().chunk == &chunk && jobs.back().layers.size() < kLayersTogether;
      if (!joins) jobs.push_back({&chunk, {}});
      jobs.back().layers.push_back(&layer);
    }
  }
  std::vector<Status> statuses(jobs.size());
  std::atomic<uint64_t> first_failed{jobs.size()};
  parallel_for(jobs.size(), options_.threads, [&](uint64_t j) {
    OpenChunk& chunk = *jobs[j].chunk;
    // Those before a failure are still decoded, so that it is always the same one that is told.
    if (j < first_failed) statuses[j] = decode_layers(chunk, jobs[j].layers);
    if (!statuses[j].ok()) {
      for (uint64_t last = first_failed; j < last && !first_failed.compare_exchange_weak(last, j);) {
      }
    }
    if ((chunk.layers_left -= jobs[j].layers.size()) > 0) return;
    chunk.blocks = {};
    chunk.tiles = {};
    if (options_.progress) options_.progress(++chunks_done_, reader_.directory().chunks.size(), "decoding");
  });
  return first_failed < jobs.size() ? statuses[first_failed] : Status();
}

}  // namespace

Result<std::vector<PlaneParameters>> read_all_parameters(const ArchiveReader& reader, const Profile* profile) {
  const ArchiveShape& shape = reader.shape();
  std::vector<PlaneParameters> all;
  if (shape.planes.empty()) return all;
  KVPACK_ASSIGN_OR_RETURN(Bytes section, reader.section(SectionKind::kParameters));
  ByteReader in(section);
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("plane parameters size"));
    KVPACK_ASSIGN_OR_RETURN(ByteSpan blob, in.take(bytes, "plane parameters"));
    const ProfilePlane* plane_profile =
        profile != nullptr ? profile->plane(shape.planes[p].layer, shape.planes[p].side) : nullptr;
    Result<PlaneParameters> parameters = read_plane_parameters(blob, shape.planes[p], plane_profile);
    if (!parameters.ok()) return parameters.error().within(fmt::format("parameters of plane {}", p));
    if (!parameters->lossless && parameters->levels != reader.directory().levels) {
      return corrupt(
          fmt::format("plane {} has {} levels, the archive {}", p, parameters->levels, reader.directory().levels));
    }
    all.push_back(std::move(parameters).value());
  }
  if (!in.at_end()) return corrupt(fmt::format("{} bytes after the plane parameters", in.remaining()));
  return all;
}

Status for_each_tile(const ArchiveReader& reader, const DecodeOptions& options,
                     const std::function<bool(const ChunkShape&, const PlaneShape&)>& wanted, const TileSink& sink) {
  KVPACK_ASSIGN_OR_RETURN(const uint32_t levels, levels_to_decode(reader, options));
  KVPACK_ASSIGN_OR_RETURN(std::vector<PlaneParameters> parameters, read_all_parameters(reader, options.profile));
  ChunkDecoder decoder(reader, options, std::move(parameters), wanted, sink);
  if (options.next_step) {
    while (const auto step = options.next_step()) KVPACK_RETURN_IF_ERROR(decoder.decode(std::span(&*step, 1)));
    return {};
  }
  const auto chunks = static_cast<uint32_t>(reader.directory().chunks.size());
  std::vector<DecodeStep> steps;
  for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
    steps.push_back({chunk, levels});
    if (steps.size() < kBatchChunks && chunk + 1 < chunks) continue;
    KVPACK_RETURN_IF_ERROR(decoder.decode(steps));
    steps.clear();
  }
  return {};
}

}  // namespace kvpack
