// SPDX-License-Identifier: Apache-2.0
// A chunk alone: one self-delimiting buffer that decodes without an archive around it, for cache tiers that store
// opaque objects (LMCache, SGLang and vLLM keep 256 tokens an object, sometimes padded at the end).
//
//   header 64 B | shape (as in an archive) | plane parameters | tile sizes | tiles by level, by plane
//
// FORMAT.md, "Frame", has every field. Bytes after the frame are ignored.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/archive_codec.h"
#include "formats/archive.h"
#include "formats/kv_tensor.h"
#include "formats/result.h"

namespace kvpack {

struct FrameOptions {
  Quality quality = Quality::kMedium;
  TransformChoice transform = TransformChoice::kAuto;
  uint64_t max_memory_bytes = UINT64_MAX;  // limit if frame_memory_bytes() would exceed it
};

struct FrameInfo {
  uint64_t frame_bytes = 0;
  uint32_t levels = 0;
  ArchiveShape shape;  // one token set
};

// Working memory that encoding or decoding a chunk of this shape takes at most, beside the caller's buffers.
uint64_t frame_memory_bytes(const ArchiveShape& shape);
// No frame of this shape is larger.
uint64_t frame_bound_bytes(const ArchiveShape& shape);

// One chunk: one token set of 1 to kMaxChunkTokens tokens; `ropes` are what the planes' rope fields index.
// Errors: invalid_argument, limit.
Result<Bytes> encode_frame(const KvTensor& chunk, std::span<const Rope> ropes, const FrameOptions& options);

// Header and shape only, checked. Errors: not_kvpack, unsupported, corrupt, truncated, limit.
Result<FrameInfo> read_frame_info(ByteSpan frame);

// Decodes into `planes`, which has one view per plane of the shape (any type, at least shape's tokens). Levels above
// `top_level` are left out. Everything is checked before anything is written, by checksum.
Status decode_frame(ByteSpan frame, uint32_t top_level, std::span<const MutableKvView> planes,
                    uint64_t max_memory_bytes = UINT64_MAX);

}  // namespace kvpack
