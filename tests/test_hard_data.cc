// SPDX-License-Identifier: Apache-2.0
// Values as real models have them at their worst: key means of 600 deviations, channels with 30 times the others'
// deviation, a first token of 100 times the others' norm, Laplacian tails. kvpack's error is no larger than KVQuant's
// at equal bits, and no value is clipped.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "codec/presets/preset.h"
#include "codec/rate_control.h"
#include "tests/must.h"
#include "tests/pack.h"
#include "tests/random_kv.h"

namespace kvpack::test {
namespace {

constexpr uint32_t kSinks = 1;

RandomShape hard_shape() {
  RandomShape shape;
  shape.tokens = 1024;
  shape.dtype = DType::kF32;
  return shape;
}

// Rows as they are before RoPE.
std::vector<float> unrotated(const KvTensor& tensor, const KvPlane& plane, const ModelFacts& facts) {
  std::vector<float> rows(size_t{plane.view.tokens} * plane.view.channels());
  load_values(plane.view, 0, plane.view.tokens, rows.data());
  if (plane.rope >= 0) {
    RopeRotation(facts.ropes[0], tensor.token_sets[0].positions).undo(rows, plane.view.kv_heads, plane.view.head_dim);
  }
  return rows;
}

KvFile hard_file(const RandomShape& shape) {
  KvFile file = random_kv_file(shape);
  std::mt19937 random(5);
  std::exponential_distribution<float> exponential;
  for (const KvPlane& plane : file.tensor.planes) {
    const uint32_t channels = plane.view.channels();
    std::vector<float> rows(size_t{plane.view.tokens} * channels);
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t c = i % channels;
      float value = exponential(random) * ((random() & 1u) != 0 ? 1.0f : -1.0f) * (c % 40 == 3 ? 30.0f : 1.0f);
      if (plane.side == Side::kKey && c % 50 == 7) value += 600.0f;
      rows[i] = i < channels ? 100.0f * value : value;
    }
    if (plane.rope >= 0) {
      RopeRotation(facts_of(shape).ropes[0], file.tensor.token_sets[0].positions)
          .redo(rows, plane.view.kv_heads, plane.view.head_dim);
    }
    store_values(make_row_view(const_cast<std::byte*>(plane.view.data), plane.view.dtype, plane.view.tokens,
                               plane.view.kv_heads, plane.view.head_dim),
                 0, plane.view.tokens, rows.data());
  }
  return file;
}

struct Point {
  double bits = 0;
  double log_error = 0;
};

Point point_of(const KvFile& file, uint64_t bytes, const KvTensor& decoded) {
  return {8.0 * static_cast<double>(bytes) / static_cast<double>(file.tensor.values()),
          std::log(relative_error(file.tensor, decoded))};
}

// KVQuant's points, by rising bits.
std::vector<Point> kvquant_curve(const KvFile& file, const ModelFacts& facts) {
  std::vector<Point> curve;
  for (const Preset* preset : must(presets_named("kvquant"))) {
    const PresetResult result = must(preset->run({file, &facts, nullptr, 2}));
    curve.push_back(point_of(file, result.bytes, result.tensor));
  }
  return curve;
}

// Its error at so many bits: on the line through the two nearest points, beyond them too.
double log_error_at(const std::vector<Point>& curve, double bits) {
  size_t i = 0;
  while (i + 2 < curve.size() && bits > curve[i + 1].bits) ++i;
  const Point& a = curve[i];
  const Point& b = curve[i + 1];
  return a.log_error + (b.log_error - a.log_error) * (bits - a.bits) / (b.bits - a.bits);
}

// Of all heads of all tokens but the sink: the largest Euclidean error beside half a step in every component, which is
// sqrt(head_dim) / 2 steps; a step is `per_deviation` times the head's deviation. Rounding gives about 1 / sqrt(3).
double worst_error_in_steps(const KvTensor& stored, const KvTensor& decoded, const ModelFacts& facts,
                            double per_deviation) {
  double worst = 0;
  for (size_t p = 0; p < stored.planes.size(); ++p) {
    const KvView& view = stored.planes[p].view;
    const std::vector<float> x = unrotated(stored, stored.planes[p], facts);
    const std::vector<float> y = unrotated(decoded, decoded.planes[p], facts);
    const size_t channels = view.channels();
    for (size_t head = 0; head < view.kv_heads; ++head) {
      double squares = 0;
      for (size_t c = head * view.head_dim; c < (head + 1) * view.head_dim; ++c) {
        double mean = 0;
        for (size_t t = kSinks; t < view.tokens; ++t) mean += double{x[t * channels + c]} / (view.tokens - kSinks);
        for (size_t t = kSinks; t < view.tokens; ++t) squares += std::pow(double{x[t * channels + c]} - mean, 2);
      }
      const double deviation = std::sqrt(squares / (static_cast<double>(view.tokens - kSinks) * view.head_dim));
      for (size_t t = kSinks; t < view.tokens; ++t) {
        double error = 0;
        for (size_t c = head * view.head_dim; c < (head + 1) * view.head_dim; ++c) {
          error += std::pow(double{x[t * channels + c]} - double{y[t * channels + c]}, 2);
        }
        worst = std::max(worst, std::sqrt(error / view.head_dim) / (per_deviation * deviation / 2));
      }
    }
  }
  return worst;
}

TEST_CASE("on hard data kvpack's error is no larger than KVQuant's at equal bits") {
  const KvFile file = hard_file(hard_shape());
  const ModelFacts facts = facts_of(hard_shape());
  const std::vector<Point> kvquant = kvquant_curve(file, facts);
  REQUIRE(kvquant.size() == 3);
  for (const Quality quality : {Quality::kLow, Quality::kMedium, Quality::kHigh}) {
    const Bytes archive = pack(file, &facts, quality);
    const Point ours = point_of(file, archive.size(), unpack(archive));
    CAPTURE(quality_name(quality));
    CAPTURE(ours.bits);
    CHECK(ours.log_error < log_error_at(kvquant, ours.bits));
  }
  for (const TransformChoice transform :
       {TransformChoice::kAuto, TransformChoice::kNone, TransformChoice::kHadamard, TransformChoice::kKlt}) {
    for (const Point& theirs : kvquant) {
      EncodeOptions options;
      options.bits_per_value = theirs.bits;
      options.transform = transform;
      MemorySink sink;
      must(encode_archive(file, &facts, options, sink));
      const Bytes archive = sink.take();
      const Point ours = point_of(file, archive.size(), unpack(archive));
      CAPTURE(static_cast<int>(transform));
      CAPTURE(theirs.bits);
      CHECK(ours.bits <= theirs.bits);
      CHECK(ours.log_error < theirs.log_error);
    }
  }
}

TEST_CASE("on hard data no value is further off than its step") {
  const KvFile file = hard_file(hard_shape());
  const ModelFacts facts = facts_of(hard_shape());
  for (const Quality quality : {Quality::kLow, Quality::kMedium, Quality::kHigh}) {
    const KvTensor decoded = unpack(pack(file, &facts, quality));
    CAPTURE(quality_name(quality));
    CHECK(worst_error_in_steps(file.tensor, decoded, facts, step_rule_of(quality).per_deviation) < 1);
  }
  // Uniform bins over what a mean of 600 deviations spans break the same bound, as does one clipped value.
  const double medium = step_rule_of(Quality::kMedium).per_deviation;
  const PresetResult coarse = must(must(presets_named("cachegen-64"))[0]->run({file, &facts, nullptr, 2}));
  CHECK(worst_error_in_steps(file.tensor, coarse.tensor, facts, medium) > 2);
}

TEST_CASE("on hard data --max-error holds for every single value") {
  const KvFile file = hard_file(hard_shape());
  const ModelFacts facts = facts_of(hard_shape());
  for (const double most : {4.0, 0.5, 0.01}) {
    EncodeOptions options;
    options.max_error = most;
    MemorySink sink;
    must(encode_archive(file, &facts, options, sink));
    const KvTensor decoded = unpack(sink.take());
    double worst = 0;
    for (size_t p = 0; p < decoded.planes.size(); ++p) {
      const KvView& view = file.tensor.planes[p].view;
      std::vector<float> x(size_t{view.tokens} * view.channels()), y(x.size());
      load_values(view, 0, view.tokens, x.data());
      load_values(decoded.planes[p].view, 0, view.tokens, y.data());
      for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, double{std::fabs(x[i] - y[i])});
    }
    CHECK(worst <= most);
    CHECK(worst > most / 8);  // or the bound says nothing
  }
}

}  // namespace
}  // namespace kvpack::test
