// SPDX-License-Identifier: Apache-2.0
// The whole codec on generated KV: archive out, tensor back.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "codec/archive_codec.h"
#include "tests/random_kv.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

struct Encoded {
  Bytes archive;
  EncodeReport report;
};

Encoded encode(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options) {
  MemorySink sink;
  Result<EncodeReport> report = encode_archive(file, facts, options, sink);
  REQUIRE_MESSAGE(report.ok(), (report.ok() ? "" : report.error().message));
  return {sink.take(), report.value()};
}

KvTensor decode(const Bytes& archive, const DecodeOptions& options = {}) {
  MemorySource source(archive);
  Result<ArchiveReader> reader = ArchiveReader::open(source);
  REQUIRE_MESSAGE(reader.ok(), (reader.ok() ? "" : reader.error().message));
  Result<KvTensor> tensor = decode_tensor(*reader, options, nullptr);
  REQUIRE_MESSAGE(tensor.ok(), (tensor.ok() ? "" : tensor.error().message));
  return std::move(tensor).value();
}

EncodeOptions with_quality(Quality quality) {
  EncodeOptions options;
  options.quality = quality;
  options.measure_all = true;
  return options;
}

// Stored bytes of all planes, token-major.
Bytes raw_of(const KvTensor& tensor) {
  Bytes all;
  for (const KvPlane& plane : tensor.planes) {
    Bytes rows(plane.view.tokens * plane.view.packed_row_bytes());
    load_raw(plane.view, 0, plane.view.tokens, rows.data());
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

}  // namespace

TEST_CASE("lossless is bit-exact for every dtype and shape") {
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    for (const uint32_t tokens : {1u, 7u, 32u, 33u, 256u, 257u, 1000u}) {
      RandomShape shape;
      shape.dtype = dtype;
      shape.tokens = tokens;
      shape.layers = 1;
      shape.key_dim = 6;
      shape.value_dim = 10;
      const KvFile file = random_kv_file(shape);
      const Encoded encoded = encode(file, nullptr, with_quality(Quality::kLossless));
      CHECK(raw_of(decode(encoded.archive)) == raw_of(file.tensor));
    }
  }
}

// As llama.cpp's ring of a sliding window holds them.
TEST_CASE("lossless is bit-exact where rows lie in another order than their tokens") {
  RandomShape shape;
  shape.tokens = 300;
  shape.layers = 2;
  KvFile file = random_kv_file(shape);
  std::vector<uint32_t> row_of_token(shape.tokens);
  for (uint32_t t = 0; t < shape.tokens; ++t) row_of_token[t] = (t + 77) % shape.tokens;
  for (KvPlane& plane : file.tensor.planes) plane.view.row_of_token = row_of_token.data();
  const Encoded encoded = encode(file, nullptr, with_quality(Quality::kLossless));
  CHECK(raw_of(decode(encoded.archive)) == raw_of(file.tensor));
}

TEST_CASE("qualities are ordered, and each level of a high archive is the next lower quality") {
  const RandomShape shape;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  const Encoded low = encode(file, &facts, with_quality(Quality::kLow));
  const Encoded medium = encode(file, &facts, with_quality(Quality::kMedium));
  const Encoded high = encode(file, &facts, with_quality(Quality::kHigh));
  CHECK(low.archive.size() < medium.archive.size());
  CHECK(medium.archive.size() < high.archive.size());
  REQUIRE(high.report.levels.size() == 3);
  for (uint32_t level = 0; level < 3; ++level) {
    DecodeOptions options;
    options.level = level;
    const double error = relative_error(file.tensor, decode(high.archive, options));
    CHECK(error == doctest::Approx(high.report.levels[level].relative_error).epsilon(1e-4));
    if (level > 0) {
      CHECK(error < 0.45 * high.report.levels[level - 1].relative_error);
    }
  }
  CHECK(high.report.levels[0].relative_error == doctest::Approx(low.report.levels[0].relative_error).epsilon(0.05));
  CHECK(high.report.levels[1].relative_error == doctest::Approx(medium.report.levels[1].relative_error).epsilon(0.05));
}

TEST_CASE("shapes: one token, one layer, odd head_dim, different K and V") {
  for (const uint32_t tokens : {1u, 2u, 31u, 32u, 33u, 255u, 256u, 257u, 700u}) {
    for (const uint32_t dim : {1u, 3u, 6u, 64u}) {
      RandomShape shape;
      shape.layers = 1;
      shape.tokens = tokens;
      shape.key_dim = dim;
      shape.value_dim = dim + 2;
      shape.kv_heads = 3;
      const KvFile file = random_kv_file(shape);
      const ModelFacts facts = facts_of(shape);
      const Encoded encoded = encode(file, &facts, with_quality(Quality::kHigh));
      const double error = relative_error(file.tensor, decode(encoded.archive));
      CHECK(error < 0.06);
      CHECK(error == doctest::Approx(encoded.report.levels.back().relative_error).epsilon(1e-4));
      CHECK(encoded.archive.size() < file.tensor.raw_bytes() + 8192);
    }
  }
}

TEST_CASE("every transform round-trips, and auto is not worse than the best of them") {
  RandomShape shape;
  shape.tokens = 1200;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  size_t best = SIZE_MAX;
  for (const TransformChoice choice : {TransformChoice::kNone, TransformChoice::kHadamard, TransformChoice::kKlt}) {
    EncodeOptions options;
    options.transform = choice;
    const Encoded encoded = encode(file, &facts, options);
    CHECK(relative_error(file.tensor, decode(encoded.archive)) < 0.2);
    best = std::min(best, encoded.archive.size());
  }
  CHECK(static_cast<double>(encode(file, &facts, {}).archive.size()) <= 1.01 * static_cast<double>(best));
}

TEST_CASE("bits, ratio and max-error are met") {
  RandomShape shape;
  shape.tokens = 600;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  EncodeOptions options;
  options.bits_per_value = 3.0;
  const Encoded by_bits = encode(file, &facts, options);
  CHECK(by_bits.report.bits_per_value <= 3.0);
  CHECK(by_bits.report.bits_per_value > 2.8);
  options = {};
  options.ratio = 4.0;
  const Encoded by_ratio = encode(file, &facts, options);
  CHECK(by_ratio.report.ratio >= 4.0);
  CHECK(by_ratio.report.ratio < 4.3);
  options = {};
  options.max_error = 0.25;
  const Encoded by_error = encode(file, &facts, options);
  CHECK(by_error.report.max_error.value() <= 0.25);
  CHECK(by_error.report.max_error.value() > 0.1);
  const KvTensor decoded = decode(by_error.archive);
  for (size_t p = 0; p < decoded.planes.size(); ++p) {
    std::vector<float> a(size_t{shape.tokens} * decoded.planes[p].view.channels()), b(a.size());
    load_values(decoded.planes[p].view, 0, shape.tokens, a.data());
    load_values(file.tensor.planes[p].view, 0, shape.tokens, b.data());
    float worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
    CHECK(worst <= 0.25f);
  }
  options.max_error = 1e-9;  // below f16's own rounding
  const Encoded exact = encode(file, &facts, options);
  CHECK(raw_of(decode(exact.archive)) == raw_of(file.tensor));
  options = {};
  options.bits_per_value = 0.0001;
  MemorySink sink;
  const Result<EncodeReport> impossible = encode_archive(file, &facts, options, sink);
  REQUIRE(!impossible.ok());
  CHECK(impossible.error().kind == ErrorKind::kInvalidArgument);
}

TEST_CASE("NaN and infinities survive bit for bit and never touch their neighbours") {
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    RandomShape shape;
    shape.dtype = dtype;
    KvFile clean = random_kv_file(shape);
    const ByteSpan stored = *clean.tensor.storage;
    Bytes damaged(stored.begin(), stored.end());
    const uint32_t element = dtype_block_bytes(dtype);
    // A NaN with a payload, an infinity, a negative NaN, in K and V of one token and elsewhere.
    const uint64_t spots[] = {5, 130 * 128 + 7, 299 * 128 + 127, 300 * 128 + 64};
    for (size_t i = 0; i < 4; ++i) {
      const float values[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()};
      auto at = make_row_view<std::byte>(damaged.data() + spots[i] * element, dtype, 1, 1, 1);
      store_values(at, 0, 1, &values[i]);
      if (i == 0) damaged[spots[i] * element] ^= std::byte{0x05};
    }
    KvFile file = clean;
    file.tensor.storage = std::make_shared<const FileBytes>(damaged);
    for (size_t p = 0; p < file.tensor.planes.size(); ++p) {
      file.tensor.planes[p].view.data =
          file.tensor.storage->data() + (clean.tensor.planes[p].view.data - clean.tensor.storage->data());
    }
    const ModelFacts facts = facts_of(shape);
    for (const Quality quality : {Quality::kLossless, Quality::kHigh, Quality::kLow}) {
      const Encoded encoded = encode(file, &facts, with_quality(quality));
      const KvTensor decoded = decode(encoded.archive);
      for (const uint64_t spot : spots) {
        CHECK(std::memcmp(decoded.storage->data() + spot * element, damaged.data() + spot * element, element) == 0);
      }
      if (quality == Quality::kLossless) continue;
      CHECK(encoded.report.non_finite == 4);
      // Everything else is as good as without them.
      double error = 0, squares = 0;
      for (size_t p = 0; p < decoded.planes.size(); ++p) {
        std::vector<float> a(size_t{shape.tokens} * 128), b(a.size());
        load_values(decoded.planes[p].view, 0, shape.tokens, a.data());
        load_values(clean.tensor.planes[p].view, 0, shape.tokens, b.data());
        for (size_t i = 0; i < a.size(); ++i) {
          if (!std::isfinite(a[i])) continue;
          error += (a[i] - b[i]) * (a[i] - b[i]);
          squares += b[i] * b[i];
        }
      }
      const Encoded reference = encode(clean, &facts, with_quality(quality));
      CAPTURE(dtype_name(dtype));
      CAPTURE(quality_name(quality));
      // 10 %: the choice of transform may fall otherwise.
      CHECK(std::sqrt(error / squares) < 1.1 * reference.report.levels.back().relative_error);
    }
  }
}

TEST_CASE("token weights: salient tokens come back better") {
  RandomShape shape;
  shape.tokens = 512;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  EncodeOptions options;
  options.token_weights.assign(file.tensor.planes.size(), std::vector<float>(size_t{512} * 2, 1.0f));
  for (auto& weights : options.token_weights) {
    for (uint32_t t = 0; t < 512; t += 13) weights[2 * t] = weights[2 * t + 1] = 4096.0f;
  }
  const Encoded encoded = encode(file, &facts, options);
  const KvTensor decoded = decode(encoded.archive);
  double salient = 0, others = 0;
  std::vector<float> a(size_t{512} * 128), b(a.size());
  load_values(decoded.planes[1].view, 0, 512, a.data());
  load_values(file.tensor.planes[1].view, 0, 512, b.data());
  for (size_t i = 0; i < a.size(); ++i) {
    const bool is_salient = (i / 128) % 13 == 0;
    (is_salient ? salient : others) += (a[i] - b[i]) * (a[i] - b[i]) / (is_salient ? 40.0 : 472.0);
  }
  CHECK(salient < 0.1 * others);
}

TEST_CASE("low rank and odd chunk sizes") {
  RandomShape shape;
  shape.tokens = 100;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  for (const uint32_t chunk : {1u, 31u, 50u, 4096u}) {
    EncodeOptions options;
    options.low_rank = 4;
    options.chunk_tokens = chunk;
    const Encoded encoded = encode(file, &facts, options);
    CHECK(relative_error(file.tensor, decode(encoded.archive)) < 0.2);
  }
}

TEST_CASE("a sink 100 times the norm is kept exactly and found by the data") {
  RandomShape shape;
  shape.sink = true;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  const Encoded encoded = encode(file, &facts, {});
  CHECK(encoded.report.sinks == 1);
  const KvTensor decoded = decode(encoded.archive);
  for (size_t p = 0; p < decoded.planes.size(); ++p) {
    CHECK(std::memcmp(decoded.planes[p].view.data, file.tensor.planes[p].view.data,
                      decoded.planes[p].view.packed_row_bytes()) == 0);
  }
}

TEST_CASE("the archive is the same for every number of threads") {
  const RandomShape shape;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  EncodeOptions options;
  options.threads = 1;
  const Bytes one = encode(file, &facts, options).archive;
  options.threads = 3;
  CHECK(encode(file, &facts, options).archive == one);
}

TEST_CASE("selected positions and layers") {
  RandomShape shape;
  shape.layers = 3;
  const KvFile file = random_kv_file(shape);
  const Encoded encoded = encode(file, nullptr, with_quality(Quality::kLossless));
  DecodeOptions options;
  options.positions = {250, 270};
  options.layers = {1, 2};
  const KvTensor part = decode(encoded.archive, options);
  REQUIRE(part.planes.size() == 2);
  REQUIRE(part.token_sets[0].positions.front() == 250);
  REQUIRE(part.token_sets[0].positions.back() == 269);
  CHECK(part.planes[0].layer == 1);
  const KvView& source = file.tensor.planes[2].view;
  CHECK(std::memcmp(part.planes[0].view.data, source.data + 250 * source.token_stride, 20 * source.token_stride) == 0);
}
