// SPDX-License-Identifier: Apache-2.0
#include "codec/outliers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kvpack {
namespace {

// Gaps of an ascending list, the first counted from 0, the others from one past the last.
void write_gaps(std::span<const uint32_t> ascending, uint32_t& next, size_t i, ByteWriter& out) {
  out.write_varint(ascending[i] - next);
  next = ascending[i] + 1;
}

Result<uint32_t> read_gap(ByteReader& in, uint64_t& next, uint64_t end, std::string_view what) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t gap, in.read_varint(what));
  if (next >= end || gap >= end - next) return corrupt(fmt::format("{} {} + {} is beyond {}", what, next, gap, end));
  const uint64_t at = next + gap;
  next = at + 1;
  return static_cast<uint32_t>(at);
}

Result<uint64_t> read_count(ByteReader& in, uint64_t limit, std::string_view what) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t count, in.read_varint(what));
  // Each entry takes at least one byte, so the count is bounded by what is left before anything is allocated.
  if (count > limit || count > in.remaining())
    return corrupt(fmt::format("{} is {}, at most {} possible", what, count, limit));
  return count;
}

}  // namespace

bool take_non_finite(const KvView& view, uint32_t first, std::span<float> rows, ExactValues& exact) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (std::isfinite(rows[i])) continue;
    if (dtype_is_quantized(view.dtype)) return false;
    const uint32_t channel = static_cast<uint32_t>(i % view.channels());
    const uint32_t token = first + static_cast<uint32_t>(i / view.channels());
    const std::byte* at = view.data + view.row_of(token) * view.token_stride +
                          channel / view.head_dim * view.head_stride + channel % view.head_dim * view.channel_stride;
    exact.index.push_back(static_cast<uint32_t>(i));
    exact.bits.insert(exact.bits.end(), at, at + dtype_block_bytes(view.dtype));
    rows[i] = 0;
  }
  return true;
}

void write_exact_values(const ExactValues& exact, ByteWriter& out) {
  out.write_varint(exact.index.size());
  if (exact.index.empty()) return;
  const size_t element_bytes = exact.bits.size() / exact.index.size();
  uint32_t next = 0;
  for (size_t i = 0; i < exact.index.size(); ++i) {
    write_gaps(exact.index, next, i, out);
    out.write_bytes(ByteSpan(exact.bits).subspan(i * element_bytes, element_bytes));
  }
}

Result<ExactValues> read_exact_values(ByteReader& in, DType dtype, uint64_t values) {
  ExactValues exact;
  KVPACK_ASSIGN_OR_RETURN(uint64_t count, read_count(in, values, "count of exact values"));
  if (count > 0 && dtype_is_quantized(dtype)) return corrupt("exact values in a plane of quantized blocks");
  uint64_t next = 0;
  for (uint64_t i = 0; i < count; ++i) {
    KVPACK_ASSIGN_OR_RETURN(uint32_t index, read_gap(in, next, values, "exact value"));
    KVPACK_ASSIGN_OR_RETURN(ByteSpan bits, in.take(dtype_block_bytes(dtype), "exact value"));
    exact.index.push_back(index);
    exact.bits.insert(exact.bits.end(), bits.begin(), bits.end());
  }
  return exact;
}

void write_exact_tokens(const ExactTokens& exact, ByteWriter& out) {
  out.write_varint(exact.token.size());
  uint32_t next = 0;
  for (size_t i = 0; i < exact.token.size(); ++i) write_gaps(exact.token, next, i, out);
  out.write_bytes(exact.rows);
}

Result<ExactTokens> read_exact_tokens(ByteReader& in, uint32_t tokens, uint64_t row_bytes) {
  ExactTokens exact;
  KVPACK_ASSIGN_OR_RETURN(uint64_t count, read_count(in, tokens, "count of exact tokens"));
  uint64_t next = 0;
  for (uint64_t i = 0; i < count; ++i) {
    KVPACK_ASSIGN_OR_RETURN(uint32_t token, read_gap(in, next, tokens, "exact token"));
    exact.token.push_back(token);
  }
  KVPACK_ASSIGN_OR_RETURN(ByteSpan rows, in.take(count * row_bytes, "exact tokens"));
  exact.rows.assign(rows.begin(), rows.end());
  return exact;
}

void restore_exact_values(const ExactValues& exact, DType source, const MutableKvView& rows) {
  const uint32_t element_bytes = dtype_block_bytes(source);
  for (size_t i = 0; i < exact.index.size(); ++i) {
    const std::byte* bits = exact.bits.data() + i * element_bytes;
    const uint32_t token = exact.index[i] / rows.channels();
    const uint32_t channel = exact.index[i] % rows.channels();
    std::byte* at = rows.data + rows.row_of(token) * rows.token_stride + channel / rows.head_dim * rows.head_stride +
                    channel % rows.head_dim * rows.channel_stride;
    if (rows.dtype == source) {
      std::memcpy(at, bits, element_bytes);
    } else if (!dtype_is_quantized(rows.dtype)) {
      float value = 0;
      load_values(make_row_view<const std::byte>(bits, source, 1, 1, 1), 0, 1, &value);
      store_values(make_row_view<std::byte>(at, rows.dtype, 1, 1, 1), 0, 1, &value);
    }
  }
}

void restore_exact_tokens(const ExactTokens& exact, DType source, uint32_t source_hadamard_block,
                          const MutableKvView& rows) {
  if (exact.token.empty()) return;
  auto stored = make_row_view<const std::byte>(exact.rows.data(), source, static_cast<uint32_t>(exact.token.size()),
                                               rows.kv_heads, rows.head_dim);
  stored.hadamard_block = source_hadamard_block;
  std::vector<float> values(rows.channels());
  Bytes raw(stored.packed_row_bytes());
  for (uint32_t i = 0; i < exact.token.size(); ++i) {
    if (rows.dtype == source && rows.hadamard_block == source_hadamard_block) {
      load_raw(stored, i, 1, raw.data());
      store_raw(rows, exact.token[i], 1, raw.data());
    } else {
      load_values(stored, i, 1, values.data());
      store_values(rows, exact.token[i], 1, values.data());
    }
  }
}

std::vector<uint32_t> find_sinks(const std::vector<std::vector<float>>& norms) {
  // A sink's norm is off by octaves in most planes; other tokens scatter by a fraction of one.
  constexpr float kSinkOctaves = 0.8f;
  constexpr size_t kFewestTokens = 8;
  if (norms.empty() || norms[0].size() < kFewestTokens) return {};
  std::vector<float> score(norms[0].size(), 0.0f);
  for (const std::vector<float>& plane : norms) {
    std::vector<float> sorted = plane;
    std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
    const float median = sorted[sorted.size() / 2];
    if (!(median > 0)) continue;
    for (size_t t = 0; t < plane.size(); ++t) {
      // At most 4 octaves count from one plane, so that a single odd plane makes no sink.
      score[t] += std::min(4.0f, std::fabs(std::log2(std::max(plane[t], median * 0x1p-4f) / median)));
    }
  }
  std::vector<uint32_t> sinks;
  for (uint32_t t = 0; t < score.size(); ++t) {
    if (score[t] > kSinkOctaves * static_cast<float>(norms.size())) sinks.push_back(t);
  }
  if (sinks.size() > kMaxSinks) {
    std::partial_sort(sinks.begin(), sinks.begin() + kMaxSinks, sinks.end(),
                      [&](uint32_t a, uint32_t b) { return score[a] > score[b]; });
    sinks.resize(kMaxSinks);
    std::sort(sinks.begin(), sinks.end());
  }
  return sinks;
}

}  // namespace kvpack
