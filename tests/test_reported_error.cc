// SPDX-License-Identifier: Apache-2.0
// What encode says of its losses is what decoding shows: per level, for every transform and type.
#include <doctest/doctest.h>

#include <cmath>

#include "codec/profile_file.h"
#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

struct Difference {
  double relative = 0;
  double largest = 0;
};

Difference difference_of(const KvTensor& a, const KvTensor& b) {
  Difference difference;
  difference.relative = relative_error(a, b);
  for (size_t p = 0; p < a.planes.size(); ++p) {
    const KvView& view = a.planes[p].view;
    std::vector<float> x(size_t{view.tokens} * view.channels()), y(x.size());
    load_values(view, 0, view.tokens, x.data());
    load_values(b.planes[p].view, 0, view.tokens, y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      difference.largest = std::max(difference.largest, std::fabs(double{x[i]} - double{y[i]}));
    }
  }
  return difference;
}

// The difference of decoded and original values at every level, against the report and the archive's own numbers.
void check_report(const KvFile& file, const ModelFacts* facts, EncodeOptions options) {
  options.measure_all = true;
  MemorySink sink;
  const EncodeReport report = must(encode_archive(file, facts, options, sink));
  MemorySource source(sink.bytes());
  const ArchiveReader reader = must(ArchiveReader::open(source));
  const Directory& directory = reader.directory();
  REQUIRE(report.levels.size() == directory.levels);
  CHECK(report.archive_bytes == sink.bytes().size());
  for (uint32_t level = 0; level < directory.levels; ++level) {
    CAPTURE(level);
    DecodeOptions decode;
    decode.level = level;
    decode.profile = options.profile;
    // As a file, and read as a file: quantized types are quantized again there.
    KvReadOptions read;
    read.facts = facts;
    const KvFile restored = must(read_kv_file(must(restore_file(reader, decode)), read));
    const Difference difference = difference_of(file.tensor, restored.tensor);
    CHECK(difference.relative > 0);
    CHECK(report.levels[level].relative_error == doctest::Approx(difference.relative).epsilon(1e-5));
    if (level + 1 == directory.levels)
      CHECK(report.max_error.value() == doctest::Approx(difference.largest).epsilon(1e-6));
    double of_blocks = 0;
    for (uint32_t chunk = 0; chunk < directory.chunks.size(); ++chunk) {
      of_blocks += double{directory.block(level, chunk).distortion};
    }
    CHECK(std::sqrt(of_blocks / report.squared_values) == doctest::Approx(difference.relative).epsilon(1e-5));
    // The same bytes as the archive's directory counts.
    const BlockEntry& last = directory.block(level, static_cast<uint32_t>(directory.chunks.size()) - 1);
    CHECK(report.levels[level].bytes == directory.level_bytes(level));
    CHECK(report.levels[level].cumulative_bytes == last.offset + last.bytes);
  }
}

TEST_CASE("reported errors are those of decoding: every transform, type and level") {
  const ModelFacts facts = nano_facts();
  for (const std::string name : {"lighthouse-f16", "lighthouse-f16-transposed-v", "lighthouse-q8_0"}) {
    const KvFile file = read_kv(read_sample("llama/" + name + ".slot.bin"), &facts);
    for (const TransformChoice transform :
         {TransformChoice::kNone, TransformChoice::kHadamard, TransformChoice::kKlt, TransformChoice::kAuto}) {
      CAPTURE(name);
      CAPTURE(static_cast<int>(transform));
      EncodeOptions options;
      options.transform = transform;
      options.chunk_tokens = 100;
      options.quality = Quality::kHigh;
      check_report(file, &facts, options);
      options.quality = Quality::kLow;
      options.low_rank = 2;
      check_report(file, &facts, options);
    }
  }
}

TEST_CASE("reported errors are those of decoding: with a profile and its token classes") {
  const Profile nano = must(read_profile(read_sample("profiles/nano.kvprofile"), "nano"));
  const ModelFacts nano_model = nano_facts();
  const Profile smollm2 = must(read_profile(read_sample("profiles/smollm2-135m.kvprofile"), "smollm2"));
  const ModelFacts smollm2_model = must(read_model_facts(sample_path("smollm2-135m.model.json")));
  for (const Quality quality : {Quality::kHigh, Quality::kMedium, Quality::kLow}) {
    EncodeOptions options;
    options.quality = quality;
    options.profile = &nano;
    check_report(read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &nano_model), &nano_model, options);
    options.profile = &smollm2;
    check_report(read_kv(read_sample("smollm2-harbour.slot.bin"), &smollm2_model), &smollm2_model, options);
  }
}

TEST_CASE("reported errors from a sample of the tokens are close to those of all") {
  const Profile profile = must(read_profile(read_sample("profiles/smollm2-135m.kvprofile"), "smollm2"));
  const ModelFacts facts = must(read_model_facts(sample_path("smollm2-135m.model.json")));
  const KvFile file = read_kv(read_sample("smollm2-harbour.slot.bin"), &facts);
  EncodeOptions options;
  options.profile = &profile;
  MemorySink sampled_archive, whole_archive;
  const EncodeReport sampled = must(encode_archive(file, &facts, options, sampled_archive));
  options.measure_all = true;
  const EncodeReport whole = must(encode_archive(file, &facts, options, whole_archive));
  CHECK(!sampled.max_error.has_value());
  CHECK(whole.max_error.has_value());
  // The identity section has the errors as text.
  CHECK(std::fabs(static_cast<double>(sampled.archive_bytes) - static_cast<double>(whole.archive_bytes)) < 64);
  REQUIRE(sampled.levels.size() == whole.levels.size());
  for (size_t level = 0; level < whole.levels.size(); ++level) {
    CHECK(sampled.levels[level].relative_error == doctest::Approx(whole.levels[level].relative_error).epsilon(0.02));
    CHECK(sampled.levels[level].relative_error != whole.levels[level].relative_error);
  }
}

}  // namespace
}  // namespace kvpack::test
