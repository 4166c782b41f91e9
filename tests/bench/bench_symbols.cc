// SPDX-License-Identifier: Apache-2.0
// Symbols alone: our streams against other coders on the same symbols, one byte each. Argument: the step in hundredths
// of a deviation.
#include <benchmark/benchmark.h>
#include <htscodecs/rANS_static4x16.h>
#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "codec/kernels.h"
#include "codec/tile_symbols.h"
#include "tests/bench/bench_data.h"

namespace kvpack::bench {
namespace {

void count_symbols(benchmark::State& state, const TileSet& set, double bytes) {
  state.counters["symbols/s"] =
      benchmark::Counter(static_cast<double>(set.values * state.iterations()), benchmark::Counter::kIsRate);
  state.counters["bits/symbol"] = 8 * bytes / static_cast<double>(set.values);
}

const TileSet& set_of(const benchmark::State& state) { return tile_set(static_cast<double>(state.range(0)) / 100); }

void kvpack_symbols(benchmark::State& state) {
  const TileSet& set = set_of(state);
  const uint32_t tokens = static_cast<uint32_t>(set.positions.size());
  const std::vector<LaneOrder> order(set.shapes[0].kv_heads, lane_order({}, tokens));
  std::array<TileSymbols, kMostStreams> readers;
  for (auto _ : state) {
    for (size_t p = 0; p < set.tiles.size(); p += kMostStreams) {
      const size_t count = std::min(kMostStreams, set.tiles.size() - p);
      std::array<TileSymbols*, kMostStreams> tiles;
      for (size_t i = 0; i < count; ++i) {
        const ByteSpan bodies[] = {ByteSpan(set.tiles[p + i]).subspan(4)};
        require(readers[i].open(bodies, set.parameters[p + i], set.shapes[p + i], order, tokens));
        tiles[i] = &readers[i];
      }
      for (uint32_t group = 0; group < tiles[0]->groups(); ++group) {
        for (const Status& status : TileSymbols::decode_group_of(std::span(tiles).first(count), group)) require(status);
      }
      for (size_t i = 0; i < count; ++i) require(tiles[i]->finish());
    }
  }
  count_symbols(state, set, static_cast<double>(set.coded_bytes));
  const double values = static_cast<double>(set.values);
  state.counters["entropy"] = 8 * set.entropy_bytes / values;
  state.counters["over_entropy"] = static_cast<double>(set.coded_bytes - set.class_bytes) / set.entropy_bytes;
  state.counters["with_classes"] = static_cast<double>(set.coded_bytes) / set.entropy_bytes;
}

void htscodecs_symbols(benchmark::State& state, int cpu) {
  const TileSet& set = set_of(state);
  rans_set_cpu(cpu);
  std::vector<uint8_t> symbols = set.symbols;
  unsigned size = 0;
  const std::unique_ptr<uint8_t, decltype(&std::free)> packed(
      rans_compress_4x16(symbols.data(), static_cast<unsigned>(symbols.size()), &size, RANS_ORDER_X32), &std::free);
  for (auto _ : state) {
    unsigned out_size = 0;
    const std::unique_ptr<uint8_t, decltype(&std::free)> out(rans_uncompress_4x16(packed.get(), size, &out_size),
                                                             &std::free);
    if (out_size != symbols.size()) state.SkipWithError("wrong size");
    benchmark::DoNotOptimize(out.get());
  }
  count_symbols(state, set, size);
}

void zstd_symbols(benchmark::State& state, int level) {
  const TileSet& set = set_of(state);
  std::vector<uint8_t> packed(ZSTD_compressBound(set.symbols.size()));
  const size_t size = ZSTD_compress(packed.data(), packed.size(), set.symbols.data(), set.symbols.size(), level);
  std::vector<uint8_t> out(set.symbols.size());
  for (auto _ : state) benchmark::DoNotOptimize(ZSTD_decompress(out.data(), out.size(), packed.data(), size));
  if (out != set.symbols) state.SkipWithError("not the same symbols");
  count_symbols(state, set, static_cast<double>(size));
}

void lz4_symbols(benchmark::State& state) {
  const TileSet& set = set_of(state);
  const int count = static_cast<int>(set.symbols.size());
  std::vector<char> packed(static_cast<size_t>(LZ4_compressBound(count)));
  const int size = LZ4_compress_default(reinterpret_cast<const char*>(set.symbols.data()), packed.data(), count,
                                        static_cast<int>(packed.size()));
  std::vector<char> out(set.symbols.size());
  for (auto _ : state) benchmark::DoNotOptimize(LZ4_decompress_safe(packed.data(), out.data(), size, count));
  count_symbols(state, set, size);
}

BENCHMARK(kvpack_symbols)->Arg(25)->Arg(50)->Arg(100)->Arg(200)->Arg(400);
BENCHMARK_CAPTURE(htscodecs_symbols, avx2, RANS_CPU_DEC_AVX2)->Arg(50)->Arg(100);
BENCHMARK_CAPTURE(htscodecs_symbols, avx512, RANS_CPU_DEC_AVX512)->Arg(100);
BENCHMARK_CAPTURE(zstd_symbols, 1, 1)->Arg(100);
BENCHMARK_CAPTURE(zstd_symbols, 3, 3)->Arg(100);
BENCHMARK_CAPTURE(zstd_symbols, 19, 19)->Arg(100);
BENCHMARK(lz4_symbols)->Arg(100);

}  // namespace
}  // namespace kvpack::bench
