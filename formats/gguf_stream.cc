// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf_stream.h"

#include <fmt/format.h>
#define XXH_STATIC_LINKING_ONLY  // for the size of XXH3_state_t
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace kvpack {
namespace {
constexpr uint64_t kPieceBytes = 256 << 10;
}  // namespace

struct GgufStream::HashState {
  XXH3_state_t xxh3;
};

GgufStream::GgufStream(ByteSource& source, uint64_t max_bytes)
    : source_(source), max_bytes_(max_bytes), hash_(std::make_unique<HashState>()) {
  XXH3_128bits_reset(&hash_->xxh3);
}

GgufStream::~GgufStream() = default;

Status GgufStream::check(uint64_t count, std::string_view what) const {
  if (count > remaining()) {
    return truncated(fmt::format("{} at offset {} needs {} bytes, {} are left", what, offset_, count, remaining()));
  }
  if (offset_ + count > max_bytes_) {
    return limit_exceeded(
        fmt::format("{} at offset {} lies beyond the {} bytes allowed for GGUF metadata", what, offset_, max_bytes_));
  }
  return {};
}

Result<ByteSpan> GgufStream::loaded() {
  const uint64_t piece_end = piece_offset_ + piece_.size();
  if (offset_ >= piece_end) {
    KVPACK_ASSIGN_OR_RETURN(piece_, source_.read(offset_, std::min(kPieceBytes, remaining())));
    piece_offset_ = offset_;
  }
  return ByteSpan(piece_).subspan(offset_ - piece_offset_);
}

void GgufStream::consume(ByteSpan bytes) {
  XXH3_128bits_update(&hash_->xxh3, bytes.data(), bytes.size());
  offset_ += bytes.size();
}

Status GgufStream::read_into(MutableByteSpan out, std::string_view what) {
  KVPACK_RETURN_IF_ERROR(check(out.size(), what));
  while (!out.empty()) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan piece, loaded());
    const ByteSpan part = piece.first(std::min(piece.size(), out.size()));
    std::memcpy(out.data(), part.data(), part.size());
    out = out.subspan(part.size());
    consume(part);
  }
  return {};
}

Status GgufStream::skip(uint64_t count, std::string_view what) {
  KVPACK_RETURN_IF_ERROR(check(count, what));
  while (count > 0) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan piece, loaded());
    const ByteSpan part = piece.first(std::min<uint64_t>(piece.size(), count));
    count -= part.size();
    consume(part);
  }
  return {};
}

std::string GgufStream::hash() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&hash_->xxh3);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace kvpack
