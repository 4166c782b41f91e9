// SPDX-License-Identifier: Apache-2.0
#include "codec/row_values.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "codec/kernels.h"

namespace kvpack {
namespace {

struct Scratch {
  std::vector<uint16_t> halves;
  std::vector<float> channels;  // [channel][32]
  std::vector<float> zeros;     // [channel]
};

Scratch& scratch() {
  thread_local Scratch kept;
  return kept;
}

// A file's values may begin at an odd byte; then they are copied first.
void load_token(const KvView& view, uint32_t token, Scratch& use, float* out) {
  const auto convert = view.dtype == DType::kF16 ? kernels().from_f16 : kernels().from_bf16;
  const std::byte* row = view.data + view.row_of(token) * view.token_stride;
  const bool together = view.head_stride == view.head_dim * sizeof(uint16_t) || view.kv_heads == 1;
  if (together && reinterpret_cast<uintptr_t>(row) % alignof(uint16_t) == 0) {
    convert(reinterpret_cast<const uint16_t*>(row), view.channels(), out);
    return;
  }
  for (uint32_t head = 0; head < view.kv_heads; ++head) {
    std::memcpy(&use.halves[size_t{head} * view.head_dim], row + head * view.head_stride,
                view.head_dim * sizeof(uint16_t));
  }
  convert(use.halves.data(), view.channels(), out);
}

// 32 tokens of a plane where a channel's tokens lie side by side (llama.cpp's transposed V).
void load_transposed(const KvView& view, uint32_t first, Scratch& use, float* out) {
  const auto convert = view.dtype == DType::kF16 ? kernels().from_f16 : kernels().from_bf16;
  const uint32_t channels = view.channels();
  uint16_t halves[kLanes];
  for (uint32_t c = 0; c < channels; ++c) {
    const std::byte* at = view.data + c / view.head_dim * view.head_stride + c % view.head_dim * view.channel_stride +
                          first * sizeof(uint16_t);
    std::memcpy(halves, at, sizeof halves);
    convert(halves, kLanes, &use.channels[size_t{c} * kLanes]);
  }
  float ones[kLanes];
  std::fill_n(ones, kLanes, 1.0f);
  kernels().inverse_none(use.channels.data(), channels, ones, use.zeros.data(), out);
}

}  // namespace

void load_rows(const KvView& view, uint32_t first, uint32_t count, float* out) {
  const bool halves = view.dtype == DType::kF16 || view.dtype == DType::kBf16;
  const bool rows = view.channel_stride == sizeof(uint16_t);
  const bool transposed = view.token_stride == sizeof(uint16_t) && view.row_of_token == nullptr;
  if (!halves || view.hadamard_block > 0 || !(rows || transposed)) {
    load_values(view, first, count, out);
    return;
  }
  const uint32_t channels = view.channels();
  Scratch& use = scratch();
  use.halves.resize(channels);
  if (!rows) {
    use.channels.resize(size_t{channels} * kLanes);
    use.zeros.assign(channels, 0.0f);
  }
  for (uint32_t done = 0; done < count;) {
    if (rows) {
      load_token(view, first + done, use, out + size_t{done} * channels);
      ++done;
    } else if (count - done >= kLanes) {
      load_transposed(view, first + done, use, out + size_t{done} * channels);
      done += kLanes;
    } else {
      load_values(view, first + done, count - done, out + size_t{done} * channels);
      break;
    }
  }
  note_reads(view, count);
}

bool is_one_block(const KvView& view) {
  const KvView packed = make_row_view(view.data, view.dtype, view.tokens, view.kv_heads, view.head_dim);
  return view.row_of_token == nullptr && view.token_stride == packed.token_stride &&
         view.head_stride == packed.head_stride && view.channel_stride == packed.channel_stride;
}

bool all_finite(const float* values, size_t count) {
  // 0 times anything else is not 0.
  constexpr size_t kChains = 16;
  float sum[kChains] = {};
  size_t i = 0;
  for (; i + kChains <= count; i += kChains) {
    for (size_t k = 0; k < kChains; ++k) sum[k] += values[i + k] * 0.0f;
  }
  for (; i < count; ++i) sum[0] += values[i] * 0.0f;
  return std::all_of(std::begin(sum), std::end(sum), [](float zero) { return zero == 0; });
}

}  // namespace kvpack
