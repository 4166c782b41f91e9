// SPDX-License-Identifier: Apache-2.0
#include "formats/placed_rows.h"

namespace kvpack {

PlacedRows::PlacedRows(const MutableKvView& plane, uint64_t offset) : plane_(plane), offset_(offset) {
  const uint64_t element_bytes = dtype_block_bytes(plane.dtype);
  if (dtype_is_quantized(plane.dtype)) {
    token_bytes_ = plane.packed_row_bytes();
    in_runs_ = plane.token_stride == token_bytes_;
    return;
  }
  heads_apart_ = plane.kv_heads > 1 && plane.head_stride > plane.token_stride;
  channels_apart_ = plane.head_dim > 1 && plane.channel_stride > plane.token_stride;
  // What lies closer together than tokens must fill a token's bytes, channels innermost.
  bool packed = true;
  token_bytes_ = element_bytes;
  if (!channels_apart_) {
    packed = plane.head_dim == 1 || plane.channel_stride == token_bytes_;
    token_bytes_ *= plane.head_dim;
  }
  if (!heads_apart_) {
    packed = packed && (plane.kv_heads == 1 || plane.head_stride == token_bytes_);
    token_bytes_ *= plane.kv_heads;
  }
  in_runs_ = packed && plane.token_stride == token_bytes_;
}

MutableKvView PlacedRows::view(uint32_t count, Bytes& buffer) const {
  const uint64_t bytes = count * plane_.packed_row_bytes();
  if (buffer.size() < bytes) buffer.resize(bytes);
  MutableKvView view = plane_;
  view.data = buffer.data();
  view.tokens = count;
  view.token_stride = token_bytes_;
  view.row_of_token = nullptr;
  if (channels_apart_) view.channel_stride = count * token_bytes_;
  if (heads_apart_) view.head_stride = count * token_bytes_ * (channels_apart_ ? plane_.head_dim : 1);
  return view;
}

Status PlacedRows::write(uint32_t first, uint32_t count, ByteSpan buffer, PlacedSink& sink) const {
  const uint32_t heads = heads_apart_ ? plane_.kv_heads : 1;
  const uint32_t channels = channels_apart_ ? plane_.head_dim : 1;
  uint64_t from = 0;
  for (uint32_t head = 0; head < heads; ++head) {
    for (uint32_t channel = 0; channel < channels; ++channel) {
      const uint64_t base = offset_ + head * plane_.head_stride + channel * plane_.channel_stride;
      for (uint32_t t = 0; t < count;) {
        const uint64_t row = plane_.row_of(first + t);
        uint32_t run = 1;
        while (t + run < count && plane_.row_of(first + t + run) == row + run) ++run;
        KVPACK_RETURN_IF_ERROR(
            sink.write_at(base + row * plane_.token_stride, buffer.subspan(from, run * token_bytes_)));
        from += run * token_bytes_;
        t += run;
      }
    }
  }
  return {};
}

}  // namespace kvpack
