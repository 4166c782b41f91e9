// SPDX-License-Identifier: Apache-2.0
// .kvp -> the same file, or the selected tokens and layers as a KvTensor.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>

#include "codec/archive_codec.h"
#include "codec/layer_planes.h"
#include "codec/parallel.h"
#include "codec/profile_file.h"
#include "codec/plane_parameters.h"
#include "codec/tile.h"

namespace kvpack {
namespace {

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

Result<uint32_t> levels_to_decode(const ArchiveReader& reader, const DecodeOptions& options) {
  const uint32_t levels = reader.directory().levels;
  if (!options.level) return levels;
  if (*options.level >= levels) {
    return invalid_argument(
        fmt::format("level {} was asked for, the archive has levels 0 to {}", *options.level, levels - 1));
  }
  return *options.level + 1;
}

// One chunk's tiles of all wanted levels.
struct ChunkTiles {
  std::vector<std::vector<Bytes>> levels;  // [level][plane of the chunk]
  std::vector<ByteSpan> of_plane(uint32_t plane) const {
    std::vector<ByteSpan> tiles;
    for (const auto& level : levels) tiles.emplace_back(level[plane]);
    return tiles;
  }
};

// `wanted` planes of the chunk: all in one read per level, or each on its own.
Result<ChunkTiles> read_chunk(const ArchiveReader& reader, uint32_t chunk, uint32_t levels,
                              const std::vector<bool>& wanted) {
  ChunkTiles tiles;
  const bool all = std::all_of(wanted.begin(), wanted.end(), [](bool w) { return w; });
  for (uint32_t level = 0; level < levels; ++level) {
    if (all) {
      KVPACK_ASSIGN_OR_RETURN(std::vector<Bytes> of_level, reader.block_tiles(level, chunk));
      tiles.levels.push_back(std::move(of_level));
      continue;
    }
    std::vector<Bytes> of_level(wanted.size());
    for (uint32_t p = 0; p < wanted.size(); ++p) {
      if (!wanted[p]) continue;
      KVPACK_ASSIGN_OR_RETURN(of_level[p], reader.tile(level, chunk, p));
    }
    tiles.levels.push_back(std::move(of_level));
  }
  return tiles;
}

// The token classes of a layer's key tile, read from the archive if that plane itself is not wanted.
Result<std::vector<int8_t>> key_tile_classes(const ArchiveReader& reader, uint32_t chunk, uint32_t plane,
                                             const TileContext& context, const ChunkTiles& tiles) {
  if (context.parameters.lossless) return std::vector<int8_t>{};
  if (!tiles.levels[0][plane].empty()) return read_tile_token_classes(context, tiles.levels[0][plane]);
  KVPACK_ASSIGN_OR_RETURN(const Bytes tile, reader.tile(0, chunk, plane));
  return read_tile_token_classes(context, tile);
}

// What DecodeOptions say to decode, one chunk after the other.
class ChunkWalk {
 public:
  ChunkWalk(const DecodeOptions& options, uint32_t chunks, uint32_t levels)
      : options_(options), chunks_(chunks), levels_(levels) {}
  std::optional<DecodeStep> next() {
    if (options_.next_step) return options_.next_step();
    if (chunk_ == chunks_) return std::nullopt;
    return DecodeStep{chunk_++, levels_};
  }

 private:
  const DecodeOptions& options_;
  const uint32_t chunks_;
  const uint32_t levels_;
  uint32_t chunk_ = 0;
};

// Where a chunk's decoded rows go. Called for every wanted tile, from several threads.
struct TileSink {
  std::function<MutableKvView(const ChunkShape& chunk, uint32_t plane)> rows;
  std::function<void(const ChunkShape& chunk, uint32_t plane)> finished;  // may be empty
};

// Decodes the wanted planes of one chunk, a layer at a time.
struct ChunkDecoder {
  const ArchiveReader& reader;
  uint32_t chunk_index;
  const std::vector<PlaneParameters>& parameters;
  const ChunkTiles& tiles;
  const TileSink& sink;

  const ChunkShape& chunk() const { return reader.directory().chunks[chunk_index]; }
  TileContext context_of(uint32_t plane) const {
    const ArchiveShape& shape = reader.shape();
    const PlaneShape& of = shape.planes[plane];
    const Rope* rope = of.rope >= 0 ? &shape.ropes[static_cast<size_t>(of.rope)] : nullptr;
    const auto positions = std::span(shape.token_sets[chunk().token_set].positions);
    return {of, parameters[plane], rope, positions.subspan(chunk().first_token, chunk().tokens), {}};
  }
  // `wanted` and `statuses` [plane of the chunk].
  void decode(std::span<const LayerPlanes> layers, const std::vector<bool>& wanted, std::span<Status> statuses) const {
    std::vector<uint32_t> together;
    for (const LayerPlanes& layer : layers) {
      const bool all = layer.planes.size() <= 2 && std::all_of(layer.planes.begin(), layer.planes.end(), [&](uint32_t p) {
        return wanted[p - chunk().first_plane];
      });
      if (all) {
        together.insert(together.end(), layer.planes.begin(), layer.planes.end());
      } else {
        decode_apart(layer, wanted, statuses);
      }
    }
    if (!together.empty()) decode_together(together, statuses);
  }

 private:
  void decode_apart(const LayerPlanes& layer, const std::vector<bool>& wanted, std::span<Status> statuses) const {
    const uint32_t key = layer.planes[0];
    for (const uint32_t plane : layer.planes) {
      if (!wanted[plane - chunk().first_plane]) continue;
      const bool follows = plane != key && can_follow(reader.shape().planes[key], reader.shape().planes[plane]);
      statuses[plane - chunk().first_plane] = decode_one(plane, follows ? std::optional(key) : std::nullopt);
    }
  }
  // Layers' K and V, or either alone, as many as fit together.
  void decode_together(std::span<const uint32_t> planes, std::span<Status> statuses) const {
    std::vector<TileContext> contexts;
    std::vector<std::vector<ByteSpan>> levels;
    for (const uint32_t plane : planes) {
      contexts.push_back(context_of(plane));
      levels.push_back(tiles.of_plane(plane - chunk().first_plane));
    }
    std::vector<TileJob> jobs;
    jobs.reserve(planes.size());
    for (size_t i = 0; i < planes.size(); ++i) {
      const bool follows = i > 0 && can_follow(contexts[i - 1].shape, contexts[i].shape);
      jobs.push_back({contexts[i], levels[i], sink.rows(chunk(), planes[i]), follows ? &jobs[i - 1] : nullptr});
    }
    auto of_jobs = decode_tiles(jobs);
    for (size_t i = 0; i < planes.size(); ++i) {
      if (sink.finished && of_jobs[i].ok()) sink.finished(chunk(), planes[i]);
      statuses[planes[i] - chunk().first_plane] = std::move(of_jobs[i]);
    }
  }
  // `key`: the plane whose token classes this one may take.
  Status decode_one(uint32_t plane, std::optional<uint32_t> key) const {
    TileContext context = context_of(plane);
    std::vector<int8_t> key_classes;
    if (key) {
      KVPACK_ASSIGN_OR_RETURN(
          key_classes, key_tile_classes(reader, chunk_index, *key - chunk().first_plane, context_of(*key), tiles));
      context.key_classes = key_classes;
    }
    KVPACK_RETURN_IF_ERROR(
        decode_tile(context, tiles.of_plane(plane - chunk().first_plane), sink.rows(chunk(), plane)));
    if (sink.finished) sink.finished(chunk(), plane);
    return {};
  }
};

// Walks the chunks; `wanted` decides by chunk and plane.
Status for_each_tile(const ArchiveReader& reader, const DecodeOptions& options,
                     const std::function<bool(const ChunkShape&, const PlaneShape&)>& wanted, const TileSink& sink) {
  KVPACK_ASSIGN_OR_RETURN(const uint32_t all_levels, levels_to_decode(reader, options));
  KVPACK_ASSIGN_OR_RETURN(std::vector<PlaneParameters> parameters, read_all_parameters(reader, options.profile));
  const ArchiveShape& shape = reader.shape();
  const std::vector<ChunkShape>& chunks = reader.directory().chunks;
  ChunkWalk walk(options, static_cast<uint32_t>(chunks.size()), all_levels);
  while (const auto step = walk.next()) {
    const uint32_t c = step->chunk;
    const uint32_t levels = step->levels;
    const ChunkShape& chunk = chunks[c];
    std::vector<bool> planes;
    for (uint32_t p = 0; p < chunk.planes; ++p) planes.push_back(wanted(chunk, shape.planes[chunk.first_plane + p]));
    if (std::none_of(planes.begin(), planes.end(), [](bool w) { return w; })) continue;
    KVPACK_ASSIGN_OR_RETURN(ChunkTiles tiles, read_chunk(reader, c, levels, planes));
    // Two layers' planes at a time: the entropy coders of all K and V run in lockstep.
    const std::vector<LayerPlanes> layers = layers_of_chunk(shape.planes, chunk.first_plane, chunk.planes);
    const ChunkDecoder decoder{reader, c, parameters, tiles, sink};
    std::vector<Status> statuses(chunk.planes);
    parallel_for((layers.size() + 1) / 2, options.threads, [&](uint64_t pair) {
      const size_t first_layer = static_cast<size_t>(2 * pair);
      const size_t count = std::min<size_t>(2, layers.size() - first_layer);
      decoder.decode(std::span(layers).subspan(first_layer, count), planes, statuses);
    });
    for (uint32_t p = 0; p < chunk.planes; ++p) {
      const PlaneShape& at = shape.planes[chunk.first_plane + p];
      if (!statuses[p].ok()) {
        return statuses[p].error().within(fmt::format("chunk {}, layer {} {}", c, at.layer, side_name(at.side)));
      }
    }
    if (options.progress) options.progress(c + 1, chunks.size(), "decoding");
  }
  return {};
}

// The image's planes come from the container; the archive's shape must describe the same ones.
Status match_image(const ArchiveShape& shape, KvFileImage& image) {
  if (image.planes.size() != shape.planes.size()) {
    return corrupt(fmt::format("the container has {} planes, the shape {}", image.planes.size(), shape.planes.size()));
  }
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    const PlaneShape& plane = shape.planes[p];
    MutableKvView& view = image.planes[p];
    const size_t tokens = shape.token_sets[plane.token_set].positions.size();
    if (view.tokens != tokens || view.channels() != plane.channels() || view.dtype != plane.dtype) {
      return corrupt(fmt::format("plane {}: the container has {} tokens x {} {} values, the shape {} x {} {}", p,
                                 view.tokens, view.channels(), dtype_name(view.dtype), tokens, plane.channels(),
                                 dtype_name(plane.dtype)));
    }
    if (view.head_dim == plane.head_dim) continue;
    // A container without model facts sees one head as wide as the row: split it as the shape says.
    if (view.kv_heads != 1)
      return corrupt(fmt::format("plane {}: heads of {} and {} channels", p, view.head_dim, plane.head_dim));
    view.kv_heads = plane.kv_heads;
    view.head_dim = plane.head_dim;
    view.head_stride = plane.head_dim * view.channel_stride;
  }
  return {};
}

DType decoded_type(DType source) { return dtype_is_quantized(source) ? DType::kF16 : source; }

// Which tokens of which set are selected, and where they go.
struct Selection {
  std::vector<std::vector<uint32_t>> tokens;  // [token set] selected tokens, ascending
  std::vector<int32_t> set_of;                // [token set] index in the result, -1 if nothing is selected
};

Selection select_tokens(const ArchiveShape& shape, const IndexRange& positions) {
  Selection selection;
  int32_t next = 0;
  for (const TokenSetShape& set : shape.token_sets) {
    std::vector<uint32_t> chosen;
    for (uint32_t t = 0; t < set.positions.size(); ++t) {
      const int32_t position = set.positions[t];
      if (position >= 0 && static_cast<uint32_t>(position) >= positions.begin &&
          static_cast<uint32_t>(position) < positions.end) {
        chosen.push_back(t);
      }
    }
    selection.set_of.push_back(chosen.empty() ? -1 : next++);
    selection.tokens.push_back(std::move(chosen));
  }
  return selection;
}

}  // namespace

Result<Profile> read_embedded_profile(const ArchiveReader& reader) {
  if (!reader.has_section(SectionKind::kProfile)) return invalid_argument("the archive carries no profile");
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, reader.section(SectionKind::kProfile));
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  if (profile_hash(bytes) != identity.profile_hash) return corrupt("the embedded profile is not the one that is named");
  return read_profile(bytes, "the embedded profile");
}

Result<std::vector<int32_t>> read_tokens(const ArchiveReader& reader) {
  std::vector<int32_t> tokens;
  if (!reader.has_section(SectionKind::kTokens)) return tokens;
  KVPACK_ASSIGN_OR_RETURN(Bytes raw, reader.section(SectionKind::kTokens));
  if (raw.size() % sizeof(int32_t) != 0) return corrupt(fmt::format("token section has {} bytes", raw.size()));
  tokens.resize(raw.size() / sizeof(int32_t));
  std::memcpy(tokens.data(), raw.data(), raw.size());
  return tokens;
}

Result<Bytes> restore_file(const ArchiveReader& reader, const DecodeOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(ArchiveIdentity identity, read_identity(reader));
  if (!reader.has_section(SectionKind::kContainer)) return corrupt("the archive has no container section");
  KVPACK_ASSIGN_OR_RETURN(Bytes container, reader.section(SectionKind::kContainer));
  KvReadOptions read_options;
  read_options.hadamard_rotated = identity.hadamard_rotated;
  KVPACK_ASSIGN_OR_RETURN(KvFileImage image, open_container(identity.source_format, container, read_options));
  const ArchiveShape& shape = reader.shape();
  KVPACK_RETURN_IF_ERROR(match_image(shape, image));
  for (size_t p = 0; p < shape.planes.size(); ++p) image.planes[p].hadamard_block = shape.planes[p].hadamard_block;
  const auto everything = [](const ChunkShape&, const PlaneShape&) { return true; };
  TileSink sink;
  sink.rows = [&](const ChunkShape& chunk, uint32_t plane) {
    return slice_tokens(image.planes[plane], chunk.first_token, chunk.tokens);
  };
  KVPACK_RETURN_IF_ERROR(for_each_tile(reader, options, everything, sink));
  return std::move(*image.bytes);
}

Result<KvTensor> decode_tensor(const ArchiveReader& reader, const DecodeOptions& options,
                               std::vector<int32_t>* tokens) {
  const ArchiveShape& shape = reader.shape();
  const Selection selection = select_tokens(shape, options.positions);
  const auto plane_wanted = [&](const PlaneShape& plane) {
    return plane.layer >= options.layers.begin && plane.layer < options.layers.end &&
           selection.set_of[plane.token_set] >= 0;
  };
  KvTensor tensor;
  for (size_t s = 0; s < shape.token_sets.size(); ++s) {
    if (selection.set_of[s] < 0) continue;
    TokenSet set;
    set.stream = shape.token_sets[s].stream;
    for (const uint32_t t : selection.tokens[s]) set.positions.push_back(shape.token_sets[s].positions[t]);
    tensor.token_sets.push_back(std::move(set));
  }
  // First the sizes, then one buffer for all planes.
  std::vector<int32_t> plane_index(shape.planes.size(), -1);
  std::vector<uint64_t> offsets;
  uint64_t total_bytes = 0;
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    const PlaneShape& plane = shape.planes[p];
    if (!plane_wanted(plane)) continue;
    const uint32_t count = static_cast<uint32_t>(selection.tokens[plane.token_set].size());
    plane_index[p] = static_cast<int32_t>(tensor.planes.size());
    offsets.push_back(total_bytes);
    total_bytes += uint64_t{count} * plane.channels() * dtype_block_bytes(decoded_type(plane.dtype));
    tensor.planes.push_back(
        {plane.layer, plane.side, static_cast<uint32_t>(selection.set_of[plane.token_set]), plane.rope, {}});
  }
  if (tensor.planes.empty()) {
    return invalid_argument("no token or layer of the archive lies in the ranges that were asked for");
  }
  auto storage = std::make_shared<Bytes>(total_bytes);
  std::vector<MutableKvView> views;
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    if (plane_index[p] < 0) continue;
    const PlaneShape& plane = shape.planes[p];
    views.push_back(make_row_view<std::byte>(storage->data() + offsets[views.size()], decoded_type(plane.dtype),
                                             static_cast<uint32_t>(selection.tokens[plane.token_set].size()),
                                             plane.kv_heads, plane.head_dim));
    tensor.planes[static_cast<size_t>(plane_index[p])].view = views.back();
  }
  tensor.storage = storage;

  const auto tile_wanted = [&](const ChunkShape& chunk, const PlaneShape& plane) {
    if (!plane_wanted(plane)) return false;
    const auto& chosen = selection.tokens[chunk.token_set];
    const auto at = std::lower_bound(chosen.begin(), chosen.end(), chunk.first_token);
    return at != chosen.end() && *at < chunk.first_token + chunk.tokens;
  };
  // A chunk whose tokens are all selected is decoded in place, another by way of a copy.
  std::vector<Bytes> partial(shape.planes.size());
  const auto selected_of = [&](const ChunkShape& chunk) {
    const auto& chosen = selection.tokens[chunk.token_set];
    const auto first = std::lower_bound(chosen.begin(), chosen.end(), chunk.first_token);
    const auto last = std::lower_bound(first, chosen.end(), chunk.first_token + chunk.tokens);
    return std::pair(static_cast<uint32_t>(first - chosen.begin()), static_cast<uint32_t>(last - chosen.begin()));
  };
  TileSink sink;
  sink.rows = [&](const ChunkShape& chunk, uint32_t plane) {
    const MutableKvView& out = views[static_cast<size_t>(plane_index[plane])];
    const auto [first, last] = selected_of(chunk);
    if (last - first == chunk.tokens) return slice_tokens(out, first, chunk.tokens);
    partial[plane].resize(chunk.tokens * out.packed_row_bytes());
    return make_row_view<std::byte>(partial[plane].data(), out.dtype, chunk.tokens, out.kv_heads, out.head_dim);
  };
  sink.finished = [&](const ChunkShape& chunk, uint32_t plane) {
    if (partial[plane].empty()) return;
    const MutableKvView& out = views[static_cast<size_t>(plane_index[plane])];
    const auto [first, last] = selected_of(chunk);
    for (uint32_t i = first; i < last; ++i) {
      const uint32_t token = selection.tokens[chunk.token_set][i] - chunk.first_token;
      store_raw(out, i, 1, partial[plane].data() + token * out.packed_row_bytes());
    }
    partial[plane].clear();
  };
  KVPACK_RETURN_IF_ERROR(for_each_tile(reader, options, tile_wanted, sink));

  if (tokens != nullptr) {
    tokens->clear();
    KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> all, read_tokens(reader));
    for (uint64_t i = options.positions.begin; i < std::min<uint64_t>(all.size(), options.positions.end); ++i) {
      tokens->push_back(all[i]);
    }
  }
  return tensor;
}

}  // namespace kvpack
