// SPDX-License-Identifier: Apache-2.0
#include "formats/kv_tensor.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "formats/ggml_blocks.h"
#include "formats/half.h"

namespace kvpack {
namespace {

struct DTypeFacts {
  DType dtype;
  std::string_view name;
  uint32_t block_values;
  uint32_t block_bytes;
};

constexpr std::array<DTypeFacts, 9> kDTypes = {{
    {DType::kF32, "f32", 1, 4},
    {DType::kF16, "f16", 1, 2},
    {DType::kBf16, "bf16", 1, 2},
    {DType::kQ8_0, "q8_0", 32, 34},
    {DType::kQ4_0, "q4_0", 32, 18},
    {DType::kQ4_1, "q4_1", 32, 20},
    {DType::kQ5_0, "q5_0", 32, 22},
    {DType::kQ5_1, "q5_1", 32, 24},
    {DType::kIq4Nl, "iq4_nl", 32, 18},
}};

const DTypeFacts& facts_of(DType dtype) {
  for (const DTypeFacts& facts : kDTypes) {
    if (facts.dtype == dtype) return facts;
  }
  assert(false && "DType out of range");
  return kDTypes[0];
}

template <DType kType>
float load_one(const std::byte* at) {
  if constexpr (kType == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  } else {
    uint16_t half;
    std::memcpy(&half, at, sizeof half);
    return kType == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
  }
}

template <DType kType>
void store_one(std::byte* at, float value) {
  if constexpr (kType == DType::kF32) {
    std::memcpy(at, &value, sizeof value);
  } else {
    const uint16_t half = kType == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
    std::memcpy(at, &half, sizeof half);
  }
}

// Elements `stride` bytes apart. The loop over neighbours stands alone, so that it can do many at once.
template <DType kType>
void load_channels(const std::byte* from, uint64_t stride, uint32_t count, float* out) {
  constexpr uint64_t kBytes = kType == DType::kF32 ? 4 : 2;
  if (stride == kBytes) {
    for (uint32_t d = 0; d < count; ++d) out[d] = load_one<kType>(from + d * kBytes);
  } else {
    for (uint32_t d = 0; d < count; ++d) out[d] = load_one<kType>(from + d * stride);
  }
}

template <DType kType>
void store_channels(std::byte* to, uint64_t stride, uint32_t count, const float* values) {
  constexpr uint64_t kBytes = kType == DType::kF32 ? 4 : 2;
  if (stride == kBytes) {
    for (uint32_t d = 0; d < count; ++d) store_one<kType>(to + d * kBytes, values[d]);
  } else {
    for (uint32_t d = 0; d < count; ++d) store_one<kType>(to + d * stride, values[d]);
  }
}

// Calls body.template operator()<type>() for a type that is not quantized.
template <typename Body>
void with_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body.template operator()<DType::kF32>();
    case DType::kF16:
      return body.template operator()<DType::kF16>();
    default:
      return body.template operator()<DType::kBf16>();
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) { return facts_of(dtype).name; }
uint32_t dtype_block_values(DType dtype) { return facts_of(dtype).block_values; }
uint32_t dtype_block_bytes(DType dtype) { return facts_of(dtype).block_bytes; }

bool dtype_is_known(int32_t ggml_type) {
  for (const DTypeFacts& facts : kDTypes) {
    if (static_cast<int32_t>(facts.dtype) == ggml_type) return true;
  }
  return false;
}

Result<DType> dtype_from_name(std::string_view name) {
  std::string known;
  for (const DTypeFacts& facts : kDTypes) {
    if (facts.name == name) return facts.dtype;
    known += known.empty() ? "" : ", ";
    known += facts.name;
  }
  return invalid_argument(fmt::format("unknown cache type '{}'; known: {}", name, known));
}

void note_reads(const KvView& view, uint32_t tokens) {
  if (view.mapping == nullptr) return;
  const bool blocks = dtype_is_quantized(view.dtype);
  // Dimensions that lie further apart than tokens make runs of their own.
  uint64_t runs = view.row_of_token == nullptr ? 1 : tokens;
  if (!blocks && view.head_stride > view.token_stride) runs *= view.kv_heads;
  if (!blocks && view.channel_stride > view.token_stride) runs *= view.head_dim;
  view.mapping->note_reads(runs, view.token_stride * (view.row_of_token == nullptr ? tokens : 1));
}

void load_values(const KvView& view, uint32_t first, uint32_t count, float* out) {
  const uint32_t channels = view.channels();
  for (uint32_t token = first; token < first + count; ++token, out += channels) {
    const std::byte* row = view.data + view.row_of(token) * view.token_stride;
    if (dtype_is_quantized(view.dtype)) {
      dequantize_blocks(view.dtype, row, channels, out);
    } else {
      with_dtype(view.dtype, [&]<DType kType>() {
        for (uint32_t head = 0; head < view.kv_heads; ++head) {
          load_channels<kType>(row + head * view.head_stride, view.channel_stride, view.head_dim,
                               out + size_t{head} * view.head_dim);
        }
      });
    }
    if (view.hadamard_block > 0) rotate_hadamard(out, channels, view.hadamard_block);
  }
  note_reads(view, count);
}

void store_values(const MutableKvView& view, uint32_t first, uint32_t count, const float* values) {
  const uint32_t channels = view.channels();
  std::vector<float> rotated(view.hadamard_block > 0 ? channels : 0);
  for (uint32_t token = first; token < first + count; ++token, values += channels) {
    std::byte* row = view.data + view.row_of(token) * view.token_stride;
    const float* from = values;
    if (view.hadamard_block > 0) {
      std::memcpy(rotated.data(), values, channels * sizeof(float));
      rotate_hadamard(rotated.data(), channels, view.hadamard_block);
      from = rotated.data();
    }
    if (dtype_is_quantized(view.dtype)) {
      quantize_blocks(view.dtype, from, channels, row);
      continue;
    }
    with_dtype(view.dtype, [&]<DType kType>() {
      for (uint32_t head = 0; head < view.kv_heads; ++head) {
        store_channels<kType>(row + head * view.head_stride, view.channel_stride, view.head_dim,
                              from + size_t{head} * view.head_dim);
      }
    });
  }
}

namespace {

// Between a view's rows and packed ones, [token][row_bytes]; copy(in the view, packed, bytes). `kBytes` of an element.
template <size_t kBytes, typename View, typename Packed, typename Copy>
void copy_elements(const View& view, uint32_t first, uint32_t count, Packed* packed, const Copy& copy) {
  const uint64_t row_bytes = view.packed_row_bytes();
  const uint64_t head_bytes = view.head_dim * kBytes;
  // Channel by channel: where a channel's tokens lie side by side, lines are used whole.
  for (uint32_t head = 0; head < view.kv_heads; ++head) {
    for (uint32_t d = 0; d < view.head_dim; ++d) {
      auto* channel = view.data + head * view.head_stride + d * view.channel_stride;
      Packed* at = packed + head * head_bytes + d * kBytes;
      for (uint32_t token = first; token < first + count; ++token, at += row_bytes) {
        copy(channel + view.row_of(token) * view.token_stride, at, kBytes);
      }
    }
  }
}

template <typename View, typename Packed, typename Copy>
void copy_rows(const View& view, uint32_t first, uint32_t count, Packed* packed, const Copy& copy) {
  const uint64_t row_bytes = view.packed_row_bytes();
  const uint64_t element_bytes = dtype_block_bytes(view.dtype);
  const uint64_t head_bytes = view.head_dim * element_bytes;
  const bool whole_heads = view.channel_stride == element_bytes;
  if (dtype_is_quantized(view.dtype) || (whole_heads && (view.kv_heads == 1 || view.head_stride == head_bytes))) {
    for (uint32_t token = first; token < first + count; ++token, packed += row_bytes) {
      copy(view.data + view.row_of(token) * view.token_stride, packed, row_bytes);
    }
  } else if (whole_heads) {
    for (uint32_t token = first; token < first + count; ++token, packed += row_bytes) {
      auto* row = view.data + view.row_of(token) * view.token_stride;
      for (uint32_t head = 0; head < view.kv_heads; ++head) {
        copy(row + head * view.head_stride, packed + head * head_bytes, head_bytes);
      }
    }
  } else if (element_bytes == 2) {
    copy_elements<2>(view, first, count, packed, copy);
  } else {
    copy_elements<4>(view, first, count, packed, copy);
  }
}

}  // namespace

void load_raw(const KvView& view, uint32_t first, uint32_t count, std::byte* out) {
  copy_rows(view, first, count, out, [](const std::byte* from, std::byte* to, size_t n) { std::memcpy(to, from, n); });
  note_reads(view, count);
}

void store_raw(const MutableKvView& view, uint32_t first, uint32_t count, const std::byte* bytes) {
  copy_rows(view, first, count, bytes,
            [](std::byte* to, const std::byte* from, size_t n) { std::memcpy(to, from, n); });
}

uint64_t KvTensor::values() const {
  uint64_t total = 0;
  for (const KvPlane& plane : planes) total += uint64_t{plane.view.tokens} * plane.view.channels();
  return total;
}

uint64_t KvTensor::raw_bytes() const {
  uint64_t total = 0;
  for (const KvPlane& plane : planes) total += plane.view.tokens * plane.view.packed_row_bytes();
  return total;
}

}  // namespace kvpack
