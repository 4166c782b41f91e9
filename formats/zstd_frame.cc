// SPDX-License-Identifier: Apache-2.0
#include "formats/zstd_frame.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

namespace kvpack {
namespace {

constexpr int kCompressionLevel = 12;
constexpr uint64_t kFirstOutputBytes = 1 << 20;

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// RFC 8878, 3.1.1.1: magic, frame header descriptor, then the window descriptor unless the frame is a single segment.
// libzstd checks windowLogMax only on its buffered path, so the window is checked here for both.
Status check_window(ByteSpan frame) {
  constexpr size_t kDescriptorOffset = 4;
  constexpr uint8_t kSingleSegment = 0x20;
  if (frame.size() < kDescriptorOffset + 2) return truncated(fmt::format("zstd frame of {} bytes", frame.size()));
  if ((static_cast<uint8_t>(frame[kDescriptorOffset]) & kSingleSegment) != 0) return {};
  const uint8_t window = static_cast<uint8_t>(frame[kDescriptorOffset + 1]);
  const uint32_t log = 10 + (window >> 3);
  if (log > kMaxZstdWindowLog || (log == kMaxZstdWindowLog && (window & 7) != 0)) {
    return limit_exceeded(fmt::format("zstd window above 2^{} bytes (2^{})", kMaxZstdWindowLog, log));
  }
  return {};
}

Status check_frame(ByteSpan frame, uint64_t raw_bytes) {
  const unsigned long long content = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (content == ZSTD_CONTENTSIZE_ERROR) return corrupt("not a zstd frame");
  if (content == ZSTD_CONTENTSIZE_UNKNOWN) return corrupt("zstd frame without a content size");
  if (content != raw_bytes) {
    return corrupt(fmt::format("zstd frame declares {} bytes of content, expected {}", content, raw_bytes));
  }
  const size_t frame_bytes = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(frame_bytes)) {
    return corrupt(fmt::format("zstd frame: {}", ZSTD_getErrorName(frame_bytes)));
  }
  if (frame_bytes != frame.size()) {
    return corrupt(fmt::format("{} bytes after the zstd frame", frame.size() - frame_bytes));
  }
  return check_window(frame);
}

}  // namespace

Result<Bytes> zstd_compress(ByteSpan raw) {
  std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  if (context == nullptr) return limit_exceeded("zstd: no memory for a compression context");
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, kCompressionLevel);
  Bytes frame(ZSTD_compressBound(raw.size()));
  const size_t bytes = ZSTD_compress2(context.get(), frame.data(), frame.size(), raw.data(), raw.size());
  if (ZSTD_isError(bytes)) return limit_exceeded(fmt::format("zstd: {}", ZSTD_getErrorName(bytes)));
  frame.resize(bytes);
  return frame;
}

Result<Bytes> zstd_decompress(ByteSpan frame, uint64_t raw_bytes) {
  KVPACK_RETURN_IF_ERROR(check_frame(frame, raw_bytes));
  std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  if (context == nullptr) return limit_exceeded("zstd: no memory for a decompression context");
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kMaxZstdWindowLog);
  Bytes raw(std::min(raw_bytes, kFirstOutputBytes));
  ZSTD_inBuffer in{frame.data(), frame.size(), 0};
  ZSTD_outBuffer out{raw.data(), raw.size(), 0};
  for (;;) {
    const size_t in_before = in.pos;
    const size_t out_before = out.pos;
    const size_t hint = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(hint)) return corrupt(fmt::format("zstd frame: {}", ZSTD_getErrorName(hint)));
    if (hint == 0) break;
    if (out.pos == out.size && raw.size() < raw_bytes) {
      raw.resize(std::min<uint64_t>(raw_bytes, uint64_t{2} * raw.size()));
      out.dst = raw.data();
      out.size = raw.size();
    } else if (in.pos == in_before && out.pos == out_before) {
      return corrupt(fmt::format("zstd frame stops after {} of {} bytes", out.pos, raw_bytes));
    }
  }
  if (out.pos != raw_bytes) {
    return corrupt(fmt::format("zstd frame holds {} bytes, expected {}", out.pos, raw_bytes));
  }
  return raw;
}

}  // namespace kvpack
