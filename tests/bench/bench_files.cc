// SPDX-License-Identifier: Apache-2.0
// The SmolLM2 sample as a whole file at the default quality: encode, and decode with every stage.
#include <benchmark/benchmark.h>

#include "codec/archive_codec.h"
#include "formats/byte_io.h"
#include "tests/bench/bench_data.h"

namespace kvpack::bench {
namespace {

Bytes packed_sample(TransformChoice transform, unsigned threads) {
  EncodeOptions options;
  options.transform = transform;
  options.threads = threads;
  MemorySink sink;
  require(encode_archive(sample_file(), &sample_facts(), options, sink));
  return sink.take();
}

void encode_file(benchmark::State& state, TransformChoice transform) {
  const unsigned threads = static_cast<unsigned>(state.range(0));
  size_t bytes = 0;
  for (auto _ : state) bytes = packed_sample(transform, threads).size();
  state.counters["bytes/s"] = benchmark::Counter(
      static_cast<double>(sample_file().tensor.raw_bytes() * state.iterations()), benchmark::Counter::kIsRate);
  state.counters["bits/value"] = 8 * static_cast<double>(bytes) / static_cast<double>(sample_file().tensor.values());
}

// Level 0 alone, or both of the default ladder.
void decode_file(benchmark::State& state, TransformChoice transform) {
  const Bytes archive = packed_sample(transform, 1);
  MemorySource source(archive);
  const ArchiveReader reader = require(ArchiveReader::open(source));
  DecodeOptions options;
  options.threads = static_cast<unsigned>(state.range(0));
  options.level = static_cast<uint32_t>(state.range(1));
  size_t bytes = 0;
  for (auto _ : state) bytes = require(restore_file(reader, options)).size();
  state.counters["bytes/s"] =
      benchmark::Counter(static_cast<double>(bytes * state.iterations()), benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(encode_file, default, TransformChoice::kAuto)->Arg(1);
BENCHMARK_CAPTURE(encode_file, none, TransformChoice::kNone)->Arg(1);
BENCHMARK_CAPTURE(decode_file, default, TransformChoice::kAuto)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, klt, TransformChoice::kKlt)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, none, TransformChoice::kNone)->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, two_threads, TransformChoice::kAuto)->Args({2, 1})->UseRealTime();

}  // namespace
}  // namespace kvpack::bench
