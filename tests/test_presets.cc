// SPDX-License-Identifier: Apache-2.0
// Published recipes: their bytes counted by hand, their errors where theory puts them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "codec/presets/group_quantizer.h"
#include "codec/presets/preset.h"
#include "codec/profile_fit.h"
#include "tests/must.h"
#include "tests/pack.h"
#include "tests/random_kv.h"

namespace kvpack::test {
namespace {

PresetResult run_preset(std::string_view name, const KvFile& file, const ModelFacts* facts,
                        const Profile* profile = nullptr) {
  const auto found =
      std::find_if(presets().begin(), presets().end(), [&](const Preset& preset) { return preset.name == name; });
  REQUIRE(found != presets().end());
  PresetResult result = must(found->run({file, facts, profile, 2}));
  CHECK(result.tensor.values() == file.tensor.values());
  return result;
}

// 300 tokens, 2 layers of 2 heads with 64 channels: four planes of 128 channels.
const RandomShape kShape;

// All values of all planes are `value`.
KvFile constant_file(const RandomShape& shape, float value) {
  KvFile file = random_kv_file(shape);
  for (const KvPlane& plane : file.tensor.planes) {
    const KvView& view = plane.view;
    const std::vector<float> rows(size_t{view.tokens} * view.channels(), value);
    store_values(
        make_row_view(const_cast<std::byte*>(view.data), view.dtype, view.tokens, view.kv_heads, view.head_dim), 0,
        view.tokens, rows.data());
  }
  return file;
}

TEST_CASE("presets are found by name and by family, and an unknown one names those that exist") {
  std::set<std::string> names;
  for (const Preset& preset : presets()) CHECK_MESSAGE(names.insert(preset.name).second, preset.name);
  CHECK(must(presets_named("all")).size() == presets().size());
  CHECK(must(presets_named("kivi")).size() == 4);
  CHECK(must(presets_named("q4_0,kivi-2,q4_0")).size() == 2);
  check_error(presets_named("kivi,turbo"), ErrorKind::kInvalidArgument, "turbo");
  check_error(presets_named("turbo"), ErrorKind::kInvalidArgument, "cachegen");
}

TEST_CASE("bytes of recipes with fixed rates are those counted by hand") {
  const KvFile file = random_kv_file(kShape);
  const ModelFacts facts = facts_of(kShape);
  // Blocks of 32 values: 32 + 2 and 16 + 2 bytes.
  CHECK(run_preset("q8_0", file, &facts).bytes == 4 * 300 * 128 / 32 * 34);
  CHECK(run_preset("q4_0", file, &facts).bytes == 4 * 300 * 128 / 32 * 18);
  // 160 tokens in groups of 32 with scale and minimum, 140 exact ones.
  const uint64_t kivi = 160 * 128 * 2 / 8 + 160 * 128 / 32 * 4 + 140 * 128 * 2;
  CHECK(run_preset("kivi-2", file, &facts).bytes == 4 * kivi);
  // The same; outliers of four bytes: of a key channel's 160 values two at either end (1.6), of a token's 128 one
  // (1.28); per head (160 + 64) x 4 f16.
  const uint64_t low_rank = 2 * (160 + 64) * 4 * 2;
  CHECK(run_preset("gear-2", file, &facts).bytes ==
        2 * (kivi + low_rank + 128 * 4 * 4) + 2 * (kivi + low_rank + 160 * 2 * 4));
  // A token exact. K: 128 vectors of 299, 2 outliers (1.5 at either end) twice; V: 299 vectors of 128, one at either
  // end.
  const uint64_t levels = 4 * 2 + 128 * 2;
  const uint64_t keys = 299 * 128 * 2 / 8 + 128 * (4 + 4 + 2 * 1 * 4);
  const uint64_t values = 299 * 128 * 2 / 8 + 299 * (4 + 4 + 2 * 1 * 4);
  CHECK(run_preset("kvquant-2", file, &facts).bytes == 2 * (levels + keys) + 2 * (levels + values));
}

TEST_CASE("CacheGen's tables are all that is left of values that never differ") {
  RandomShape shape;
  shape.tokens = 512;
  const KvFile file = constant_file(shape, 1.0f);
  const uint64_t scales = 512 * 2;
  CHECK(run_preset("cachegen-free", file, nullptr).bytes == 4 * scales);
  CHECK(run_preset("cachegen", file, nullptr).bytes == 4 * (scales + 2 * 128 * 33 * 2));
}

TEST_CASE("CacheGen's symbols take their entropy") {
  RandomShape shape;
  shape.layers = 1;
  shape.tokens = 256;
  KvFile file = constant_file(shape, 1.0f);
  // In every channel but the first, half of the tokens are 1 and half are -1: one bit a value.
  for (const KvPlane& plane : file.tensor.planes) {
    std::vector<float> rows(256 * 128, 1.0f);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = i % 128 != 0 && i / 128 % 2 == 1 ? -1.0f : 1.0f;
    store_values(make_row_view(const_cast<std::byte*>(plane.view.data), plane.view.dtype, 256, 2, 64), 0, 256,
                 rows.data());
  }
  const PresetResult result = run_preset("cachegen-free-64", file, nullptr);
  CHECK(result.bytes == 2 * (256 * 2 + 256 * 127 / 8));
  CHECK(relative_error(file.tensor, result.tensor) < 1e-3);
}

TEST_CASE("more bits, smaller errors") {
  const KvFile file = random_kv_file(kShape);
  const ModelFacts facts = facts_of(kShape);
  const std::vector<std::vector<std::string>> ladders = {{"cachegen", "cachegen-32", "cachegen-64"},
                                                         {"kivi-2", "kivi-3", "kivi-4", "kivi-5"},
                                                         {"kvquant-2", "kvquant-3", "kvquant-4"},
                                                         {"gear-2", "gear-4"},
                                                         {"rotatekv-2", "rotatekv-4"},
                                                         {"kvtc-16", "kvtc-8", "kvtc-6", "kvtc-4", "kvtc-3"},
                                                         {"q4_0", "q5_0", "q8_0"},
                                                         {"kivi-2", "gear-2"}};
  for (const auto& ladder : ladders) {
    double last_error = 1;
    uint64_t last_bytes = 0;
    for (const std::string& name : ladder) {
      const PresetResult result = run_preset(name, file, &facts);
      const double error = relative_error(file.tensor, result.tensor);
      CAPTURE(name);
      CHECK(error < last_error);
      CHECK(result.bytes > last_bytes);
      last_error = error;
      last_bytes = result.bytes;
    }
  }
}

TEST_CASE("what is lossless stays as it is") {
  const KvFile file = random_kv_file(kShape);
  for (const char* name : {"zstd-19", "zstd-19-shuffled"}) {
    const PresetResult result = run_preset(name, file, nullptr);
    CHECK(relative_error(file.tensor, result.tensor) == 0);
    CHECK(result.bytes < file.tensor.raw_bytes());
  }
}

TEST_CASE("a profile's token weights take the place of nearness to the end") {
  const KvFile file = random_kv_file(kShape);
  const ModelFacts facts = facts_of(kShape);
  ProfileFitter fitter(facts, {});
  must(fitter.add(file));
  const Profile profile = must(fitter.finish());
  const PresetResult by_weight = run_preset("zipcache", file, &facts, &profile);
  CHECK(by_weight.bytes == run_preset("zipcache", file, &facts).bytes);
  CHECK(relative_error(file.tensor, by_weight.tensor) < 0.5);
}

TEST_CASE("two layers that are alike share directions and keep their lengths") {
  RandomShape shape;
  shape.layers = 4;
  KvFile four = random_kv_file(shape);
  // Layer 3 is twice layer 2.
  for (size_t p = 4; p < 6; ++p) {
    const KvView& from = four.tensor.planes[p].view;
    const KvView& to = four.tensor.planes[p + 2].view;
    std::vector<float> rows(size_t{from.tokens} * from.channels());
    load_values(from, 0, from.tokens, rows.data());
    for (float& value : rows) value *= 2;
    store_values(make_row_view(const_cast<std::byte*>(to.data), to.dtype, to.tokens, to.kv_heads, to.head_dim), 0,
                 to.tokens, rows.data());
  }
  const PresetResult shared = run_preset("minicache", four, nullptr);
  const PresetResult apart = run_preset("kivi-4", four, nullptr);
  CHECK(shared.bytes < apart.bytes * 4 / 5);
  CHECK(relative_error(four.tensor, shared.tensor) < 1.1 * relative_error(four.tensor, apart.tensor));
}

TEST_CASE("no value is clipped, whatever the mean and the outliers") {
  for (const float mean : {0.0f, 600.0f, -600.0f, 1e-7f}) {
    for (const int bits : {1, 2, 4, 8}) {
      std::vector<float> values;
      for (int i = 0; i < 32; ++i) values.push_back(mean + std::sin(static_cast<float>(i)) * (i == 7 ? 30.0f : 1.0f));
      const std::vector<float> before = values;
      const GroupScale scale = quantize_group(values.data(), values.size(), 1, bits);
      for (size_t i = 0; i < values.size(); ++i) {
        CHECK(std::fabs(values[i] - before[i]) <= scale.scale * 0.5f + 1e-4f);
      }
    }
  }
  CHECK(f16_below(1000.3f) <= 1000.3f);
  CHECK(f16_above(1000.3f) >= 1000.3f);
  CHECK(f16_above(1000.3f) - f16_below(1000.3f) == 0.5f);
  CHECK(f16_below(-1e-9f) < 0);
  CHECK(f16_above(0) == 0);
}

}  // namespace
}  // namespace kvpack::test
