// SPDX-License-Identifier: Apache-2.0
// Whole files at the default quality: encode, and decode with every stage. The sample, and correlated random values in
// heads of 128 channels.
#include <benchmark/benchmark.h>

#include "codec/archive_codec.h"
#include "codec/profile_fit.h"
#include "formats/byte_io.h"
#include "tests/bench/bench_data.h"
#include "tests/random_kv.h"

namespace kvpack::bench {
namespace {

struct Input {
  const KvFile& file;
  const ModelFacts& facts;
  const Profile* profile = nullptr;
};

enum class Heads { k64, k64Profile, k128, k128Profile };

Input input_of(Heads heads) {
  if (heads == Heads::k64) return {sample_file(), sample_facts(), nullptr};
  if (heads == Heads::k64Profile) return {sample_file(), sample_facts(), &sample_profile()};
  test::RandomShape shape;
  shape.layers = 8;
  shape.tokens = 1024;
  shape.kv_heads = 2;
  shape.key_dim = shape.value_dim = 128;
  static const KvFile kFile = test::random_kv_file(shape);
  static const ModelFacts kFacts = test::facts_of(shape);
  if (heads == Heads::k128) return {kFile, kFacts, nullptr};
  static const Profile kProfile = [] {
    ProfileFitter fitter(kFacts, {});
    require(fitter.add(kFile));
    return require(fitter.finish());
  }();
  return {kFile, kFacts, &kProfile};
}

Bytes packed(const Input& input, TransformChoice transform, unsigned threads, Quality quality) {
  EncodeOptions options;
  options.transform = transform;
  options.threads = threads;
  options.quality = quality;
  options.profile = input.profile;
  MemorySink sink;
  require(encode_archive(input.file, &input.facts, options, sink));
  return sink.take();
}

void count_bytes(benchmark::State& state, const Input& input, size_t archive_bytes) {
  const KvTensor& tensor = input.file.tensor;
  state.counters["bytes/s"] =
      benchmark::Counter(static_cast<double>(tensor.raw_bytes() * state.iterations()), benchmark::Counter::kIsRate);
  state.counters["bits/value"] = 8 * static_cast<double>(archive_bytes) / static_cast<double>(tensor.values());
}

// Argument: threads.
void encode_file(benchmark::State& state, Heads heads, TransformChoice transform, Quality quality) {
  const Input input = input_of(heads);
  size_t bytes = 0;
  for (auto _ : state) bytes = packed(input, transform, static_cast<unsigned>(state.range(0)), quality).size();
  count_bytes(state, input, bytes);
}

// Arguments: threads, and the last level to decode: 0 alone, or both of the default ladder.
void decode_file(benchmark::State& state, Heads heads, TransformChoice transform, Quality quality) {
  const Input input = input_of(heads);
  const Bytes archive = packed(input, transform, 1, quality);
  MemorySource source(archive);
  const ArchiveReader reader = require(ArchiveReader::open(source));
  DecodeOptions options;
  options.threads = static_cast<unsigned>(state.range(0));
  options.level = static_cast<uint32_t>(state.range(1));
  options.profile = input.profile;
  for (auto _ : state) benchmark::DoNotOptimize(require(decode_tensor(reader, options, nullptr)).planes.size());
  count_bytes(state, input, archive.size());
}

constexpr auto kAuto = TransformChoice::kAuto;
constexpr auto kMedium = Quality::kMedium;
BENCHMARK_CAPTURE(encode_file, profile, Heads::k64Profile, kAuto, kMedium)->Arg(1);
BENCHMARK_CAPTURE(encode_file, default, Heads::k64, kAuto, kMedium)->Arg(1);
BENCHMARK_CAPTURE(encode_file, hadamard, Heads::k64, TransformChoice::kHadamard, kMedium)->Arg(1);
BENCHMARK_CAPTURE(encode_file, none, Heads::k64, TransformChoice::kNone, kMedium)->Arg(1);
BENCHMARK_CAPTURE(encode_file, lossless, Heads::k64, kAuto, Quality::kLossless)->Arg(1);
BENCHMARK_CAPTURE(encode_file, head_128_profile, Heads::k128Profile, kAuto, kMedium)->Arg(1);
BENCHMARK_CAPTURE(decode_file, profile, Heads::k64Profile, kAuto, kMedium)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, default, Heads::k64, kAuto, kMedium)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, klt, Heads::k64, TransformChoice::kKlt, kMedium)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, none, Heads::k64, TransformChoice::kNone, kMedium)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, lossless, Heads::k64, kAuto, Quality::kLossless)->Args({1, 0});
BENCHMARK_CAPTURE(decode_file, head_128_profile, Heads::k128Profile, kAuto, kMedium)->Args({1, 0})->Args({1, 1});
BENCHMARK_CAPTURE(decode_file, two_threads, Heads::k64Profile, kAuto, kMedium)->Args({2, 1})->UseRealTime();

}  // namespace
}  // namespace kvpack::bench
