// SPDX-License-Identifier: Apache-2.0
// The C header's functions over frame.h: arguments checked, exceptions (only allocation can throw) turned into codes.
#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "codec/frame.h"
#include "codec/kvpack.h"

namespace kvpack {
namespace {

thread_local std::string last_error;

int status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return KVPACK_INVALID_ARGUMENT;
    case ErrorKind::kNotKvpack:
      return KVPACK_NOT_KVPACK;
    case ErrorKind::kUnsupported:
      return KVPACK_UNSUPPORTED;
    case ErrorKind::kCorrupt:
    case ErrorKind::kTruncated:
      return KVPACK_CORRUPT;
    case ErrorKind::kLimit:
      return KVPACK_LIMIT;
    default:
      return KVPACK_ERROR;
  }
}

int fail(const Error& error) {
  last_error = error.message;
  return status_of(error.kind);
}

template <typename Body>
int guarded(const Body& body) {
  try {
    last_error.clear();
    return body();
  } catch (const std::bad_alloc&) {
    return KVPACK_LIMIT;
  } catch (...) {
    return KVPACK_ERROR;
  }
}

bool is_plain_dtype(uint32_t dtype) { return dtype == KVPACK_F32 || dtype == KVPACK_F16 || dtype == KVPACK_BF16; }

Result<MutableKvView> view_of(const kvpack_plane& plane, uint32_t tokens) {
  if (!is_plain_dtype(plane.dtype)) return invalid_argument("dtype must be f32, f16 or bf16");
  if (plane.data == nullptr) return invalid_argument("a plane's data is null");
  if (plane.kv_heads == 0 || plane.kv_heads > kMaxKvHeads || plane.head_dim == 0 || plane.head_dim > kMaxHeadDim) {
    return invalid_argument("a plane's kv_heads or head_dim is out of range");
  }
  auto view = make_row_view<std::byte>(static_cast<std::byte*>(plane.data), static_cast<DType>(plane.dtype), tokens,
                                       plane.kv_heads, plane.head_dim);
  view.token_stride = plane.token_stride;
  view.head_stride = plane.head_stride;
  view.channel_stride = plane.channel_stride;
  return view;
}

struct ChunkViews {
  KvTensor tensor;
  std::vector<Rope> ropes;
};

Result<ChunkViews> views_of(const kvpack_chunk* chunk) {
  if (chunk == nullptr || chunk->positions == nullptr || (chunk->n_planes > 0 && chunk->planes == nullptr) ||
      (chunk->n_ropes > 0 && chunk->ropes == nullptr)) {
    return invalid_argument("a null pointer in the chunk");
  }
  if (chunk->tokens == 0 || chunk->tokens > kMaxChunkTokens || chunk->n_planes > kMaxPlanes ||
      chunk->n_ropes > kMaxPlanes) {
    return invalid_argument("the chunk's tokens, planes or ropes are out of range");
  }
  ChunkViews views;
  TokenSet set;
  set.positions.assign(chunk->positions, chunk->positions + chunk->tokens);
  views.tensor.token_sets.push_back(std::move(set));
  for (uint32_t r = 0; r < chunk->n_ropes; ++r) {
    const kvpack_rope& from = chunk->ropes[r];
    if (from.pairs > kMaxHeadDim / 2 || from.inv_freq == nullptr || from.style < KVPACK_ROPE_NORM ||
        from.style > KVPACK_ROPE_NEOX) {
      return invalid_argument("a rope's style, pairs or inv_freq is invalid");
    }
    Rope rope;
    rope.style = static_cast<RopeStyle>(from.style);
    rope.first_channel = from.first_channel;
    rope.magnitude = from.magnitude;
    rope.inv_freq.assign(from.inv_freq, from.inv_freq + from.pairs);
    views.ropes.push_back(std::move(rope));
  }
  for (uint32_t p = 0; p < chunk->n_planes; ++p) {
    const kvpack_plane& from = chunk->planes[p];
    KVPACK_ASSIGN_OR_RETURN(MutableKvView view, view_of(from, chunk->tokens));
    if (from.side > KVPACK_VALUE) return invalid_argument("a plane's side is neither key nor value");
    views.tensor.planes.push_back({from.layer, static_cast<Side>(from.side), 0, from.rope, view});
  }
  return views;
}

ArchiveShape bound_shape(const ChunkViews& views) {
  ArchiveShape shape;
  shape.token_sets.push_back({0, views.tensor.token_sets[0].positions});
  shape.ropes = views.ropes;
  for (const KvPlane& plane : views.tensor.planes) {
    shape.planes.push_back(
        {plane.layer, plane.side, 0, plane.rope, plane.view.kv_heads, plane.view.head_dim, plane.view.dtype, 0});
  }
  return shape;
}

ByteSpan span_of(const void* src, size_t bytes) {
  return {static_cast<const std::byte*>(src), src == nullptr ? 0 : bytes};
}

uint64_t row_bytes_of(const PlaneShape& plane) {
  return make_row_view<const std::byte>(nullptr, plane.dtype, 1, plane.kv_heads, plane.head_dim).packed_row_bytes();
}

}  // namespace
}  // namespace kvpack

using namespace kvpack;

const char* kvpack_status_name(int status) {
  switch (status) {
    case KVPACK_OK:
      return "ok";
    case KVPACK_INVALID_ARGUMENT:
      return "invalid argument";
    case KVPACK_BUFFER_TOO_SMALL:
      return "buffer too small";
    case KVPACK_NOT_KVPACK:
      return "not a kvpack frame";
    case KVPACK_UNSUPPORTED:
      return "unsupported";
    case KVPACK_CORRUPT:
      return "corrupt";
    case KVPACK_LIMIT:
      return "limit exceeded";
    default:
      return "error";
  }
}

const char* kvpack_last_error(void) { return last_error.c_str(); }

int kvpack_frame_bound(const kvpack_chunk* chunk, uint64_t* frame_bytes, uint64_t* memory_bytes) {
  return guarded([&]() -> int {
    const Result<ChunkViews> views = views_of(chunk);
    if (!views.ok()) return fail(views.error());
    const ArchiveShape shape = bound_shape(*views);
    if (frame_bytes != nullptr) *frame_bytes = frame_bound_bytes(shape);
    if (memory_bytes != nullptr) *memory_bytes = frame_memory_bytes(shape);
    return KVPACK_OK;
  });
}

int kvpack_encode_frame(const kvpack_chunk* chunk, int quality, uint64_t max_memory_bytes, void* dst, size_t capacity,
                        size_t* written) {
  return guarded([&]() -> int {
    const Result<ChunkViews> views = views_of(chunk);
    if (!views.ok()) return fail(views.error());
    if (quality < KVPACK_LOSSLESS || quality > KVPACK_LOW || written == nullptr || (dst == nullptr && capacity > 0)) {
      return fail(invalid_argument("quality, dst or written is invalid"));
    }
    FrameOptions options;
    options.quality = static_cast<Quality>(quality);
    options.max_memory_bytes = max_memory_bytes;
    const Result<Bytes> frame = encode_frame(views->tensor, views->ropes, options);
    if (!frame.ok()) return fail(frame.error());
    *written = frame->size();
    if (frame->size() > capacity) {
      last_error = "the frame is larger than the buffer";
      return KVPACK_BUFFER_TOO_SMALL;
    }
    std::memcpy(dst, frame->data(), frame->size());
    return KVPACK_OK;
  });
}

int kvpack_read_frame_info(const void* src, size_t bytes, kvpack_frame_info* info) {
  return guarded([&]() -> int {
    if (info == nullptr) return fail(invalid_argument("info is null"));
    const Result<FrameInfo> frame = read_frame_info(span_of(src, bytes));
    if (!frame.ok()) return fail(frame.error());
    *info = {};
    info->frame_bytes = frame->frame_bytes;
    info->tokens = static_cast<uint32_t>(frame->shape.token_sets[0].positions.size());
    info->n_planes = static_cast<uint32_t>(frame->shape.planes.size());
    info->levels = frame->levels;
    info->memory_bytes = frame_memory_bytes(frame->shape);
    for (const PlaneShape& plane : frame->shape.planes) info->raw_bytes += info->tokens * row_bytes_of(plane);
    return KVPACK_OK;
  });
}

int kvpack_read_frame_planes(const void* src, size_t bytes, kvpack_plane* planes, uint32_t capacity) {
  return guarded([&]() -> int {
    const Result<FrameInfo> frame = read_frame_info(span_of(src, bytes));
    if (!frame.ok()) return fail(frame.error());
    if (planes == nullptr || capacity < frame->shape.planes.size()) {
      return fail(invalid_argument("room for fewer planes than the frame has"));
    }
    for (size_t p = 0; p < frame->shape.planes.size(); ++p) {
      const PlaneShape& from = frame->shape.planes[p];
      const uint64_t element = dtype_block_bytes(from.dtype);
      planes[p] = {from.layer,
                   static_cast<uint32_t>(from.side),
                   from.kv_heads,
                   from.head_dim,
                   static_cast<uint32_t>(from.dtype),
                   from.rope,
                   nullptr,
                   row_bytes_of(from),
                   element * from.head_dim,
                   element};
    }
    return KVPACK_OK;
  });
}

int kvpack_decode_frame(const void* src, size_t bytes, uint32_t top_level, uint64_t max_memory_bytes,
                        const kvpack_plane* planes, uint32_t n_planes, int32_t* positions) {
  return guarded([&]() -> int {
    const Result<FrameInfo> frame = read_frame_info(span_of(src, bytes));
    if (!frame.ok()) return fail(frame.error());
    if (planes == nullptr && n_planes > 0) return fail(invalid_argument("planes is null"));
    const auto& set = frame->shape.token_sets[0].positions;
    std::vector<MutableKvView> views;
    for (uint32_t p = 0; p < n_planes; ++p) {
      const Result<MutableKvView> view = view_of(planes[p], static_cast<uint32_t>(set.size()));
      if (!view.ok()) return fail(view.error());
      views.push_back(*view);
    }
    const Status status = decode_frame(span_of(src, bytes), top_level, views, max_memory_bytes);
    if (!status.ok()) return fail(status.error());
    if (positions != nullptr) std::copy(set.begin(), set.end(), positions);
    return KVPACK_OK;
  });
}
