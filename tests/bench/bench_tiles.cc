// SPDX-License-Identifier: Apache-2.0
// A tile's bytes to f16 rows, no transform, no RoPE; and what the memory alone allows. Lossless tiles.
#include <benchmark/benchmark.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <cstring>

#include "codec/kernels.h"
#include "codec/lossless.h"
#include "tests/bench/bench_data.h"

namespace kvpack::bench {
namespace {

void count_bytes(benchmark::State& state, uint64_t bytes, double coded) {
  state.counters["bytes/s"] =
      benchmark::Counter(static_cast<double>(bytes * state.iterations()), benchmark::Counter::kIsRate);
  state.counters["bits/value"] = 16 * coded / static_cast<double>(bytes);
}

void fused_decode(benchmark::State& state) {
  const TileSet& set = tile_set(static_cast<double>(state.range(0)) / 100);
  const uint32_t tokens = static_cast<uint32_t>(set.positions.size());
  const PlaneShape& shape = set.shapes[0];
  const size_t tile_bytes = size_t{tokens} * shape.channels() * 2;
  Bytes out(tile_bytes * set.tiles.size());
  const auto rows_of = [&](size_t p) {
    return make_row_view<std::byte>(&out[p * tile_bytes], DType::kF16, tokens, shape.kv_heads, shape.head_dim);
  };
  std::vector<TileContext> contexts;
  std::vector<std::array<ByteSpan, 1>> levels;
  for (size_t p = 0; p < set.tiles.size(); ++p) {
    contexts.push_back({set.shapes[p], set.parameters[p], nullptr, set.positions, {}});
    levels.push_back({set.tiles[p]});
  }
  for (auto _ : state) {
    for (size_t p = 0; p < set.tiles.size(); p += kTilesTogether) {
      const size_t count = std::min(kTilesTogether, set.tiles.size() - p);
      std::vector<TileJob> jobs;
      for (size_t i = p; i < p + count; ++i) jobs.push_back({contexts[i], levels[i], rows_of(i)});
      for (const Status& status : decode_tiles(jobs)) require(status);
    }
  }
  count_bytes(state, out.size(), static_cast<double>(set.coded_bytes));
}

// 1 byte to 2, times a scale, past the caches: what fused decoding would be if entropy coding were free.
void u8_to_bf16_streaming(benchmark::State& state) {
#if defined(__SSE2__)
  const std::vector<uint8_t> from(size_t{1} << 25, 77);
  Bytes to(2 * from.size() + 64);
  std::byte* first = to.data() + (64 - reinterpret_cast<uintptr_t>(to.data()) % 64);
  for (auto _ : state) {
    std::byte* at = first;
    for (size_t i = 0; i < from.size(); i += 16, at += 32) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&from[i]));
      const __m128i zero = _mm_setzero_si128();
      const __m128i low = _mm_unpacklo_epi8(bytes, zero);
      const __m128i high = _mm_unpackhi_epi8(bytes, zero);
      const auto scaled = [&](__m128i words) {
        const __m128 factor = _mm_set1_ps(0.01f);
        const __m128 a = _mm_mul_ps(_mm_cvtepi32_ps(_mm_unpacklo_epi16(words, zero)), factor);
        const __m128 b = _mm_mul_ps(_mm_cvtepi32_ps(_mm_unpackhi_epi16(words, zero)), factor);
        return _mm_packs_epi32(_mm_srai_epi32(_mm_castps_si128(a), 16), _mm_srai_epi32(_mm_castps_si128(b), 16));
      };
      _mm_stream_si128(reinterpret_cast<__m128i*>(at), scaled(low));
      _mm_stream_si128(reinterpret_cast<__m128i*>(at + 16), scaled(high));
    }
    benchmark::ClobberMemory();
  }
  count_bytes(state, 2 * from.size(), static_cast<double>(from.size()));
#else
  state.SkipWithError("written for x86");
#endif
}

void copy_memory(benchmark::State& state) {
  const Bytes from(size_t{1} << 26, std::byte{1});
  Bytes to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  count_bytes(state, from.size(), static_cast<double>(from.size()));
}

Bytes coded_rows(ByteSpan rows, DType dtype, uint32_t channels) {
  ByteWriter out;
  require(encode_lossless(rows, dtype, channels, out));
  return out.take();
}

void lossless(benchmark::State& state, DType dtype, bool decode) {
  const std::vector<Bytes>& rows = sample_rows(dtype);
  const uint32_t channels = sample_file().tensor.planes[0].view.channels();
  std::vector<Bytes> packed;
  uint64_t raw = 0;
  uint64_t coded = 0;
  for (const Bytes& plane : rows) {
    packed.push_back(coded_rows(plane, dtype, channels));
    raw += plane.size();
    coded += packed.back().size();
  }
  Bytes out(rows[0].size());
  for (auto _ : state) {
    for (size_t p = 0; p < rows.size(); ++p) {
      if (decode) {
        ByteReader in(packed[p]);
        require(decode_lossless(in, dtype, channels, out));
      } else {
        benchmark::DoNotOptimize(coded_rows(rows[p], dtype, channels).size());
      }
    }
  }
  count_bytes(state, raw, static_cast<double>(coded));
  state.counters["ratio"] = static_cast<double>(raw) / static_cast<double>(coded);
}

BENCHMARK(fused_decode)->Arg(25)->Arg(50)->Arg(100)->Arg(200)->Arg(400);
BENCHMARK(u8_to_bf16_streaming);
BENCHMARK(copy_memory);
BENCHMARK_CAPTURE(lossless, encode_bf16, DType::kBf16, false);
BENCHMARK_CAPTURE(lossless, decode_bf16, DType::kBf16, true);
BENCHMARK_CAPTURE(lossless, encode_f16, DType::kF16, false);
BENCHMARK_CAPTURE(lossless, decode_f16, DType::kF16, true);

}  // namespace
}  // namespace kvpack::bench
