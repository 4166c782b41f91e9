// SPDX-License-Identifier: Apache-2.0
// Every instruction set's kernels against the scalar ones, bit for bit, on random and adversarial input; streams coded
// by each are decoded by each. KVPACK_TIME_KERNELS=1 prints how fast each is.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "codec/kernels.h"

using namespace kvpack;

namespace {

using Random = std::mt19937;

// Fastest of many runs, in values per second.
template <typename Body>
void time_kernel(const Kernels& kernels, const char* what, size_t values, const Body& body) {
  if (std::getenv("KVPACK_TIME_KERNELS") == nullptr) return;
  double best = 1e9;
  for (int run = 0; run < 200; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  fmt::print("{:8} {:16} {:8.0f} million values/s\n", kernels.name, what, static_cast<double>(values) / best / 1e6);
}

// `count` frequencies that sum to 256, the last not zero; some tables flat, some with one frequency of nearly all.
std::vector<uint8_t> random_frequencies(Random& random, size_t count, bool all_positive) {
  std::vector<uint32_t> f(count, all_positive ? 1 : 0);
  f.back() = 1;
  uint32_t left = 256;
  for (const uint32_t n : f) left -= n;
  const bool steep = random() % 2 == 0;
  while (left > 0) {
    const uint32_t take = steep ? 1 + random() % left : 1;
    const size_t at = random() % count;
    if (f[at] + take > 255) continue;
    f[at] += take;
    left -= take;
  }
  return {f.begin(), f.end()};
}

// A list of steps and the symbols that they code.
struct Program {
  std::vector<SymbolCode> symbol_codes;
  std::vector<DigitCode> digit_codes;
  std::vector<EncodeCode> encode_codes;  // [step][run]
  std::vector<std::array<const void*, 8>> decode_pointers, encode_pointers;
  std::vector<LaneRuns> runs;
  std::vector<std::array<uint8_t, kLanes>> symbols;
  std::vector<StepKind> kind;
  std::vector<size_t> row;                            // [step] which row of values it works on
  std::vector<std::array<int16_t, kLanes>> expected;  // [row] after all steps
  std::vector<bool> mixed;

  size_t size() const { return kind.size(); }
};

LaneRuns random_runs(Random& random) {
  LaneRuns runs;
  runs.count = 1 + random() % 8;
  uint32_t free = random() % 4 == 0 ? static_cast<uint32_t>(random()) : kAllLanes;
  for (uint32_t run = 0; run < runs.count; ++run) {
    runs.mask[run] = run + 1 == runs.count ? free : free & static_cast<uint32_t>(random());
    free &= ~runs.mask[run];
  }
  return runs;
}

int draw(Random& random, const uint8_t* frequency, int count) {
  uint32_t slot = random() % 256;
  int index = 0;
  while (index + 1 < count && slot >= frequency[index]) slot -= frequency[index++];
  return index;
}

Program random_program(Random& random, size_t rows) {
  Program p;
  for (size_t r = 0; r < rows; ++r) {
    std::array<int16_t, kLanes> q{};
    const int digits = static_cast<int>(random() % 4);
    for (int k = 0; k <= digits; ++k) {
      LaneRuns runs = random_runs(random);
      const bool mixed = random() % 3 == 0;
      if (!mixed) runs = {1, {kAllLanes}};
      std::array<uint8_t, kLanes> symbols{};
      p.decode_pointers.emplace_back();
      p.encode_pointers.emplace_back();
      for (uint32_t run = 0; run < runs.count; ++run) {
        std::array<std::vector<uint8_t>, 2> tables;
        if (k == 0) {
          tables[0] = random_frequencies(random, 16, false);
          p.symbol_codes.push_back(make_symbol_code(tables[0].data()));
          p.encode_codes.push_back(make_encode_code(tables[0].data()));
        } else {
          uint8_t frequency[2][3];
          for (int context = 0; context < 2; ++context) {
            tables[context] = random_frequencies(random, 3, true);
            std::copy(tables[context].begin(), tables[context].end(), frequency[context]);
          }
          p.digit_codes.push_back(make_digit_code(frequency));
          p.encode_codes.push_back(make_encode_code(frequency));
        }
        for (int lane = 0; lane < kLanes; ++lane) {
          if (((runs.mask[run] >> lane) & 1u) == 0) continue;
          int16_t& value = q[static_cast<size_t>(lane)];
          if (k == 0) {
            const int index = draw(random, tables[0].data(), 16);
            symbols[static_cast<size_t>(lane)] = static_cast<uint8_t>(index);
            value = static_cast<int16_t>(index - 7);
          } else {
            const size_t context = value != 0;
            const int index = draw(random, tables[context].data(), 3);
            symbols[static_cast<size_t>(lane)] = static_cast<uint8_t>(context * kDigitContext + index);
            value = static_cast<int16_t>(3 * value + (value < 0 ? 1 - index : index - 1));
          }
        }
      }
      p.runs.push_back(runs);
      p.mixed.push_back(mixed);
      p.symbols.push_back(symbols);
      p.kind.push_back(k == 0 ? StepKind::kSymbol : StepKind::kDigit);
      p.row.push_back(r);
    }
    p.expected.push_back(q);
  }
  size_t symbol = 0, digit = 0, encode = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    for (uint32_t run = 0; run < p.runs[i].count; ++run) {
      p.decode_pointers[i][run] = p.kind[i] == StepKind::kSymbol ? static_cast<const void*>(&p.symbol_codes[symbol++])
                                                                 : static_cast<const void*>(&p.digit_codes[digit++]);
      p.encode_pointers[i][run] = &p.encode_codes[encode++];
    }
  }
  return p;
}

Bytes encode_program(const Kernels& kernels, const Program& p) {
  std::vector<RansEncodeStep> steps;
  for (size_t i = 0; i < p.size(); ++i) {
    steps.push_back({p.mixed[i] ? static_cast<const void*>(p.encode_pointers[i].data()) : p.encode_pointers[i][0],
                     p.mixed[i] ? &p.runs[i] : nullptr, p.symbols[i].data()});
  }
  uint16_t state[kLanes];
  std::fill_n(state, kLanes, static_cast<uint16_t>(kRansLow));
  std::vector<uint8_t> buffer((steps.size() + 1) * kLanes);
  uint8_t* end = buffer.data() + buffer.size();
  const uint8_t* first = kernels.encode_steps(state, steps, end);
  Bytes stream(sizeof state + static_cast<size_t>(end - first));
  std::memcpy(stream.data(), state, sizeof state);
  if (end != first) std::memcpy(stream.data() + sizeof state, first, static_cast<size_t>(end - first));
  return stream;
}

std::vector<RansStep> decode_steps_of(const Program& p, std::vector<std::array<int16_t, kLanes>>& rows) {
  std::vector<RansStep> steps;
  for (size_t i = 0; i < p.size(); ++i) {
    steps.push_back({p.kind[i],
                     p.mixed[i] ? static_cast<const void*>(p.decode_pointers[i].data()) : p.decode_pointers[i][0],
                     p.mixed[i] ? &p.runs[i] : nullptr, rows[p.row[i]].data()});
  }
  return steps;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

std::vector<float> random_floats(Random& random, size_t count, double spread = 1) {
  std::normal_distribution<float> normal(0, static_cast<float>(spread));
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Bit patterns of every kind: subnormals, infinities, NaNs with payloads, ties.
std::vector<float> odd_floats(Random& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) {
    uint32_t bits = static_cast<uint32_t>(random());
    if (random() % 2 == 0) bits = (bits & 0x80ffffffu) | (((0x30 + random() % 0x18) & 0xff) << 24);
    if (random() % 4 == 0) bits &= 0xffffe000u | (random() % 2 == 0 ? 0x1000u : 0u);
    std::memcpy(&value, &bits, sizeof value);
  }
  return values;
}

}  // namespace

TEST_CASE("reciprocals divide exactly") {
  for (uint32_t frequency = 1; frequency < 256; ++frequency) {
    uint8_t table[16] = {};
    table[0] = static_cast<uint8_t>(frequency);
    table[15] = static_cast<uint8_t>(256 - frequency);
    const EncodeCode code = make_encode_code(table);
    const uint32_t reciprocal = static_cast<uint32_t>(code.reciprocal_low[0] | (code.reciprocal_high[0] << 8));
    const uint32_t bias = static_cast<uint32_t>(code.bias_low[0] | (code.bias_high[0] << 8));
    uint32_t wrong = 0;
    for (uint32_t x = 1; x < frequency << 8; ++x) {
      const uint32_t t = (x * reciprocal) >> 16;
      const uint32_t v = ((x - t) >> 1) + t;
      const uint32_t quotient = (2 * v * (uint32_t{code.factor_high[0]} << 8)) >> 16;
      wrong += 2 * v > 0xffff || x + quotient * (256 - frequency) + bias != ((x / frequency) << 8) + x % frequency;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("rANS steps: every table codes what every other decodes") {
  Random random(7);
  for (int round = 0; round < 40; ++round) {
    const Program p = random_program(random, 1 + random() % 60);
    const Program other = random_program(random, 1 + random() % 60);
    const Bytes stream = encode_program(scalar_kernels(), p);
    const Bytes other_stream = encode_program(scalar_kernels(), other);
    bool escapes = false;
    for (size_t i = 0; i < p.size(); ++i) {
      for (uint32_t run = 0; run < p.runs[i].count && p.kind[i] == StepKind::kSymbol; ++run) {
        for (int lane = 0; lane < kLanes; ++lane) {
          escapes |= ((p.runs[i].mask[run] >> lane) & 1u) != 0 && p.symbols[i][static_cast<size_t>(lane)] == 15;
        }
      }
    }
    for (const Kernels* kernels : runnable_kernels()) {
      CAPTURE(kernels->name);
      CHECK(encode_program(*kernels, p) == stream);
      RansReader reader;
      REQUIRE(reader.open(stream, kLanes).ok());
      std::vector<std::array<int16_t, kLanes>> rows(p.expected.size());
      const std::vector<RansStep> steps = decode_steps_of(p, rows);
      std::array alone{RansWork{&reader, steps}};
      CHECK(kernels->decode_together(alone) == (escapes ? 1 : 0));
      CHECK(reader.finish().ok());
      CHECK(rows == p.expected);

      // Up to four streams, of different lengths.
      for (size_t streams = 2; streams <= kMostStreams; ++streams) {
        std::array<RansReader, kMostStreams> readers;
        std::array<std::vector<std::array<int16_t, kLanes>>, kMostStreams> rows_of;
        std::array<std::vector<RansStep>, kMostStreams> steps_of;
        std::array<RansWork, kMostStreams> work;
        for (size_t s = 0; s < streams; ++s) {
          const Program& program = s % 2 == 0 ? p : other;
          REQUIRE(readers[s].open(s % 2 == 0 ? stream : other_stream, kLanes).ok());
          rows_of[s].resize(program.expected.size());
          steps_of[s] = decode_steps_of(program, rows_of[s]);
          work[s] = {&readers[s], steps_of[s]};
        }
        kernels->decode_together(std::span(work).first(streams));
        for (size_t s = 0; s < streams; ++s) {
          CHECK(readers[s].finish().ok());
          CHECK(rows_of[s] == (s % 2 == 0 ? p : other).expected);
        }
      }
    }
  }
}

TEST_CASE("rANS steps on bytes that mean nothing: all tables read the same and stay inside") {
  Random random(8);
  for (int round = 0; round < 60; ++round) {
    const Program p = random_program(random, 1 + random() % 20);
    Bytes noise(2 * kLanes + random() % 300);
    for (std::byte& byte : noise) byte = static_cast<std::byte>(random() % (round % 2 == 0 ? 256 : 3));
    for (int lane = 0; lane < kLanes; ++lane) noise[static_cast<size_t>(2 * lane + 1)] |= std::byte{1};
    std::vector<std::array<int16_t, kLanes>> expected(p.expected.size());
    std::string message;
    for (const Kernels* kernels : runnable_kernels()) {
      CAPTURE(kernels->name);
      RansReader reader;
      REQUIRE(reader.open(noise, kLanes).ok());
      std::vector<std::array<int16_t, kLanes>> rows(p.expected.size());
      const std::vector<RansStep> steps = decode_steps_of(p, rows);
      std::array work{RansWork{&reader, steps}};
      kernels->decode_together(work);
      const Status status = reader.finish();
      const std::string found = status.ok() ? "" : status.error().message;
      if (kernels == runnable_kernels().front()) {
        expected = rows;
        message = found;
      }
      CHECK(rows == expected);
      CHECK(found == message);
    }
  }
}

TEST_CASE("rows: units, transforms, RoPE and conversions equal the scalar ones") {
  Random random(9);
  const Kernels& scalar = scalar_kernels();
  for (const size_t dim : {size_t{64}, size_t{128}, size_t{80}, size_t{7}, size_t{1}, size_t{36}, size_t{256}}) {
    const size_t components = 1 + random() % dim;
    std::vector<int16_t> q(components * kLanes);
    const bool sums_fit = dim != 36;
    for (uint32_t k = 0; k < components; ++k) {
      if (k % 3 == 1) continue;  // zero, but for a single value in every other one
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        int16_t& value = q[k * kLanes + lane];
        value = static_cast<int16_t>(random() % 9) - 4;
        if (random() % 8 == 0) value = static_cast<int16_t>(static_cast<int>(random() % 400) - 200);
      }
    }
    for (uint32_t k = 4; k < components; k += 6) q[k * kLanes + random() % kLanes] = 1;
    // The largest sizes whose sums fit, and, in another lane, one more.
    for (uint32_t k = 0; k < components; ++k) q[k * kLanes + 5] = 0;
    q[5] = INT16_MAX;
    if (components > 3) q[kLanes + 5] = -INT16_MAX;
    if (components > 3) q[2 * kLanes + 5] = 1;
    if (components > 3 && !sums_fit) q[3 * kLanes + 5] = 1;
    const size_t component_pairs = (components + 1) / 2;
    std::vector<int16_t> weights(component_pairs * 2 * dim);
    for (int16_t& weight : weights) weight = static_cast<int16_t>(random());
    const std::vector<float> scale = random_floats(random, kLanes);
    const std::vector<float> mean = random_floats(random, dim, 10);
    const std::vector<float> channel_units = random_floats(random, dim * kLanes, 30);
    const size_t pairs = dim / 2;
    const std::vector<float> angles = random_floats(random, 40 * 4 * (pairs + 1));
    std::vector<uint32_t> index(kLanes);
    for (uint32_t& i : index) i = random() % 40;
    const std::vector<float> columns = random_floats(random, dim * components);
    const std::vector<float> columns_of_32 = random_floats(random, dim * kLanes);

    std::vector<int16_t> channel_q(dim * kLanes);
    for (int16_t& q_of : channel_q) q_of = static_cast<int16_t>(random() % 4 == 0 ? random() : random() % 15 - 7);
    // Some values beyond what an f16 holds, and below.
    std::vector<float> wide_scale = scale;
    for (size_t lane = 0; lane < kLanes; lane += 3) wide_scale[lane] *= std::ldexp(1.0f, static_cast<int>(lane) - 20);

    struct Outcome {
      std::vector<float> units, matrix, none, hadamard, norm, neox, forward, forward_group, columns, sums, largest;
      std::vector<int16_t> pairs;
      std::vector<uint64_t> used;
      std::vector<uint16_t> halves;
      std::vector<int32_t> quantized;
      bool all_fit = false;
      bool none_fit = false;
    };
    const auto run = [&](const Kernels& k) {
      Outcome out;
      out.units.resize(components * kLanes);
      k.units(q.data(), components, out.units.data());
      out.pairs.assign(component_pairs * 2 * kLanes, 0x7777);
      out.used.assign(pair_words(component_pairs) * kQuads, ~uint64_t{0});
      CHECK(k.pair_units(q.data(), components, out.pairs.data(), out.used.data()) == (sums_fit || components <= 3));
      out.matrix.resize(dim * kLanes);
      // Within what the kernel's sums may be: lane 5 alone is beyond, if any.
      if (!sums_fit) out.pairs[5 * 2] = 0;
      k.inverse_matrix(out.pairs.data(), out.used.data(), component_pairs, weights.data(), dim, scale.data(),
                       mean.data(), out.matrix.data());
      out.none.resize(dim * kLanes);
      k.inverse_none(channel_units.data(), dim, scale.data(), mean.data(), out.none.data());
      out.hadamard = channel_units;
      k.hadamard(out.hadamard.data(), dim, dim & (~dim + 1));
      out.norm = out.neox = out.matrix;
      // Rows 3 longer than they need be, which must stay as they are.
      out.halves.assign(2 * kLanes * (dim + 3), 0x7777);
      std::vector<uint16_t*> half_rows;
      for (size_t row = 0; row < 2 * kLanes; ++row) half_rows.push_back(&out.halves[row * (dim + 3)]);
      k.none_to_f16(channel_q.data(), dim, wide_scale.data(), mean.data(), half_rows.data());
      k.none_to_bf16(channel_q.data(), dim, wide_scale.data(), mean.data(), half_rows.data() + kLanes);
      out.sums.assign(kErrorChains, 0.0f);
      out.largest.assign(kErrorChains, 0.0f);
      k.errors(out.none.data(), channel_units.data(), dim * kLanes - dim / 2, out.sums.data(), out.largest.data());
      k.rotate(out.norm.data(), kLanes, dim, pairs, true, angles.data(), index.data());
      k.rotate(out.neox.data(), kLanes, dim, pairs, false, angles.data(), nullptr);
      out.forward.resize(components);
      k.forward(mean.data(), columns.data(), dim, components, out.forward.data());
      out.forward_group.resize(size_t{kLanes} * kLanes);
      k.forward_group(columns_of_32.data(), channel_units.data(), dim, kLanes - dim % 7, out.forward_group.data());
      std::vector<const float*> rows;
      for (size_t lane = 0; lane < kLanes; ++lane) rows.push_back(&out.none[lane * dim]);
      out.columns.resize(dim * kLanes);
      k.columns(rows.data(), dim, out.columns.data());
      // Columns 40 apart; the last one's scale takes the values beyond what may be quantized.
      out.quantized.resize(2 * dim * 40);
      out.all_fit = k.quantize(out.columns.data(), dim, scale.data(), out.quantized.data(), 40);
      const std::vector<float> huge(kLanes, 1e30f);
      out.none_fit = k.quantize(out.columns.data(), dim, huge.data(), &out.quantized[dim * 40], 40);
      return out;
    };
    // The sums that the decoder's definition gives (tile_rows.h), apart from any kernel.
    const Outcome expected = run(scalar);
    for (size_t slot = 0; slot < kLanes; ++slot) {
      double sum = 0;
      for (size_t k = 0; k < components; ++k) {
        if (slot == 5 && !sums_fit && k == 0) continue;
        sum += static_cast<double>(q[k * kLanes + slot]) * static_cast<double>(weights[k / 2 * dim * 2 + k % 2]);
      }
      CHECK(std::fabs(sum * double{scale[slot]} + double{mean[0]} - double{expected.matrix[slot * dim]}) <=
            1e-6 * (1 + std::fabs(sum)));
    }
    for (const Kernels* kernels : runnable_kernels()) {
      CAPTURE(kernels->name);
      CAPTURE(dim);
      const Outcome found = run(*kernels);
      CHECK(same_bits(found.units, expected.units));
      CHECK(found.pairs == expected.pairs);
      CHECK(found.used == expected.used);
      CHECK(same_bits(found.matrix, expected.matrix));
      CHECK(same_bits(found.none, expected.none));
      CHECK(same_bits(found.halves, expected.halves));
      CHECK(same_bits(found.sums, expected.sums));
      CHECK(same_bits(found.largest, expected.largest));
      CHECK(same_bits(found.hadamard, expected.hadamard));
      CHECK(same_bits(found.norm, expected.norm));
      CHECK(same_bits(found.neox, expected.neox));
      CHECK(same_bits(found.forward, expected.forward));
      CHECK(same_bits(found.forward_group, expected.forward_group));
      CHECK(same_bits(found.columns, expected.columns));
      CHECK(found.quantized == expected.quantized);
      CHECK(found.all_fit == expected.all_fit);
      CHECK(expected.all_fit);
      CHECK(found.none_fit == expected.none_fit);
      CHECK_FALSE(expected.none_fit);
    }
  }
}

TEST_CASE("halves: rounding and widening equal the scalar ones, every f16 included") {
  Random random(10);
  std::vector<uint16_t> all(65536 + 5);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> values = odd_floats(random, 100003);
  for (uint32_t i = 0; i < 60; ++i) values[i] = std::ldexp(1.0f, static_cast<int>(i) - 40);
  const auto run = [&](const Kernels& k) {
    std::pair<std::vector<uint16_t>, std::vector<float>> out{std::vector<uint16_t>(2 * values.size()),
                                                             std::vector<float>(2 * all.size())};
    k.to_f16(values.data(), values.size(), out.first.data());
    k.to_bf16(values.data(), values.size(), out.first.data() + values.size());
    k.from_f16(all.data(), all.size(), out.second.data());
    k.from_bf16(all.data(), all.size(), out.second.data() + all.size());
    return out;
  };
  const auto expected = run(scalar_kernels());
  for (const Kernels* kernels : runnable_kernels()) {
    CAPTURE(kernels->name);
    const auto found = run(*kernels);
    CHECK(same_bits(found.first, expected.first));
    CHECK(same_bits(found.second, expected.second));
  }
}

TEST_CASE("counts of integers, and rows with a value above a limit") {
  Random random(12);
  for (const Kernels* kernels : runnable_kernels()) {
    CAPTURE(kernels->name);
    for (int round = 0; round < 200; ++round) {
      const int32_t span = static_cast<int32_t>(random() % (kCounted + 3));
      std::vector<int32_t> q(random() % 400);
      for (int32_t& value : q) value = static_cast<int32_t>(random() % (2 * span + 1)) - span;
      if (round % 10 == 9 && !q.empty()) q[random() % q.size()] = round % 20 == 9 ? 1 << 29 : -(1 << 29);
      uint32_t largest = 0;
      for (const int32_t value : q) largest = std::max(largest, static_cast<uint32_t>(std::abs(value)));
      std::array<uint32_t, 2 * kCounted + 1> counts;
      counts.fill(99);
      REQUIRE(kernels->count(q.data(), q.size(), counts.data()) == largest);
      for (int32_t v = -static_cast<int32_t>(largest); largest <= kCounted && v <= static_cast<int32_t>(largest); ++v) {
        CHECK(counts[static_cast<size_t>(v + static_cast<int32_t>(kCounted))] == std::count(q.begin(), q.end(), v));
      }
    }
    std::vector<int16_t> values(50 * kLanes);
    for (int16_t& value : values) value = static_cast<int16_t>(random() % 9);
    std::vector<int16_t> most(50);
    for (size_t row = 0; row < most.size(); ++row) {
      most[row] = static_cast<int16_t>(row % 3 == 0 ? 8 : 5 + random() % 3);
      if (row % 7 == 0) values[row * kLanes + random() % kLanes] = INT16_MAX;
      if (row % 11 == 0) most[row] = INT16_MAX;
    }
    std::vector<uint8_t> above(most.size(), 9);
    kernels->rows_above(values.data(), most.size(), most.data(), above.data());
    for (size_t row = 0; row < most.size(); ++row) {
      const int16_t* of_row = &values[row * kLanes];
      CHECK(above[row] == (*std::max_element(of_row, of_row + kLanes) > most[row] ? 1 : 0));
    }
  }
}

TEST_CASE("encoder's integers: parents, symbols, digits") {
  Random random(11);
  std::vector<int32_t> q(4 * kLanes);
  for (size_t i = 0; i < q.size(); ++i) {
    q[i] = static_cast<int32_t>(random() % 40) - 20;
    if (i % 7 == 0) q[i] = static_cast<int32_t>(random() % (1u << 31)) - (1 << 30);
  }
  q[0] = 1 << 30;
  q[1] = -(1 << 30);
  for (const Kernels* kernels : runnable_kernels()) {
    CAPTURE(kernels->name);
    std::vector<int32_t> parents(q.size());
    kernels->parents(q.data(), q.size(), parents.data());
    for (size_t i = 0; i < q.size(); ++i) {
      CHECK(std::abs(int64_t{q[i]} - 3 * int64_t{parents[i]}) <= 1);
    }
    for (size_t first = 0; first < q.size(); first += kLanes) {
      for (const int largest : {0, 1, 5, 7}) {
        std::array<uint8_t, kLanes> symbols, digits;
        kernels->symbols(&q[first], largest, symbols.data());
        kernels->digits(&q[first], &parents[first], digits.data());
        for (size_t lane = 0; lane < kLanes; ++lane) {
          const int32_t value = q[first + lane];
          const int32_t parent = parents[first + lane];
          CHECK(symbols[lane] == (value >= -largest && value <= largest ? value + 7 : 15));
          const int32_t digit = value - 3 * parent;
          CHECK(digits[lane] == (parent == 0 ? 1 + digit : kDigitContext + 1 + (parent < 0 ? -digit : digit)));
        }
      }
    }
  }
}

TEST_CASE("inverses are those of the matrices, and every instruction set's the scalar one") {
  Random random(13);
  for (const size_t n : {size_t{1}, size_t{7}, size_t{64}, size_t{80}}) {
    std::vector<double> matrix(n * n);
    for (double& x : matrix) x = static_cast<double>(static_cast<int>(random() % 2001) - 1000) / 64;
    std::vector<double> expected = matrix;
    REQUIRE(scalar_kernels().invert(expected.data(), n));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double product = 0;
        for (size_t k = 0; k < n; ++k) product += matrix[i * n + k] * expected[k * n + j];
        CHECK(std::fabs(product - (i == j ? 1 : 0)) < 1e-7);
      }
    }
    std::vector<double> singular = matrix;
    std::copy_n(matrix.begin(), n, singular.end() - static_cast<std::ptrdiff_t>(n));  // the first row again
    for (const Kernels* kernels : runnable_kernels()) {
      CAPTURE(kernels->name);
      std::vector<double> found = matrix;
      CHECK(kernels->invert(found.data(), n));
      CHECK(found == expected);
      found = singular;
      CHECK(kernels->invert(found.data(), n) == (n == 1));
    }
  }
}

TEST_CASE("kernels' speed") {
  Random random(12);
  constexpr size_t kRows = 1024;
  constexpr size_t kDim = 64;
  const uint8_t frequency[16] = {1, 1, 1, 2, 5, 18, 56, 85, 56, 18, 5, 2, 1, 1, 1, 3};
  const SymbolCode symbol_code = make_symbol_code(frequency);
  const EncodeCode encode_code = make_encode_code(frequency);
  std::vector<std::array<uint8_t, kLanes>> symbols(kRows);
  std::vector<RansEncodeStep> encode;
  for (auto& row : symbols) {
    for (uint8_t& symbol : row) symbol = static_cast<uint8_t>(draw(random, frequency, 15));
    encode.push_back({&encode_code, nullptr, row.data()});
  }
  std::vector<uint8_t> buffer((kRows + 1) * kLanes);
  const std::vector<float> weights = random_floats(random, kDim * kDim);
  std::vector<int16_t> integer_weights(kDim * kDim);
  for (int16_t& weight : integer_weights) weight = static_cast<int16_t>(random());
  std::vector<int16_t> pairs(kDim * kLanes);
  std::vector<uint64_t> used(pair_words(kDim / 2) * kQuads);
  const std::vector<float> units = random_floats(random, kDim * kLanes);
  std::vector<float> rows(kDim * kLanes);
  std::vector<uint16_t> halves(rows.size());
  for (const Kernels* kernels : runnable_kernels()) {
    uint16_t state[kLanes];
    const uint8_t* first = nullptr;
    const auto code = [&] {
      std::fill_n(state, kLanes, static_cast<uint16_t>(kRansLow));
      first = kernels->encode_steps(state, encode, buffer.data() + buffer.size());
    };
    code();
    time_kernel(*kernels, "rANS encode", kRows * kLanes, code);
    Bytes stream(sizeof state);
    std::memcpy(stream.data(), state, sizeof state);
    const auto* bytes = reinterpret_cast<const std::byte*>(first);
    stream.insert(stream.end(), bytes, reinterpret_cast<const std::byte*>(buffer.data() + buffer.size()));
    std::vector<std::array<int16_t, kLanes>> q(kMostStreams * kRows);
    std::array<std::vector<RansStep>, kMostStreams> steps;
    for (size_t i = 0; i < q.size(); ++i) {
      steps[i / kRows].push_back({StepKind::kSymbol, &symbol_code, nullptr, q[i].data()});
    }
    for (size_t streams = 1; streams <= kMostStreams; ++streams) {
      const auto decode = [&] {
        std::array<RansReader, kMostStreams> readers;
        std::array<RansWork, kMostStreams> work;
        for (size_t s = 0; s < streams; ++s) {
          REQUIRE(readers[s].open(stream, kLanes).ok());
          work[s] = {&readers[s], steps[s]};
        }
        kernels->decode_together(std::span(work).first(streams));
        for (size_t s = 0; s < streams; ++s) REQUIRE(readers[s].finish().ok());
      };
      decode();
      CHECK(q[5][3] == symbols[5][3] - 7);
      const std::string name = fmt::format("rANS decode, {}", streams);
      time_kernel(*kernels, name.c_str(), streams * kRows * kLanes, decode);
    }
    time_kernel(*kernels, "matrix 64 x 64", kDim * kLanes, [&] {
      kernels->pair_units(q[0].data(), kDim, pairs.data(), used.data());
      kernels->inverse_matrix(pairs.data(), used.data(), kDim / 2, integer_weights.data(), kDim, units.data(),
                              weights.data(), rows.data());
    });
    time_kernel(*kernels, "no transform", kDim * kLanes,
                [&] { kernels->inverse_none(units.data(), kDim, units.data(), weights.data(), rows.data()); });
    std::array<uint16_t*, kLanes> half_rows;
    for (size_t lane = 0; lane < kLanes; ++lane) half_rows[lane] = &halves[lane * kDim];
    time_kernel(*kernels, "symbols to f16", kDim * kLanes,
                [&] { kernels->none_to_f16(q[0].data(), kDim, units.data(), weights.data(), half_rows.data()); });
    time_kernel(*kernels, "f32 to f16", rows.size(), [&] { kernels->to_f16(rows.data(), rows.size(), halves.data()); });
  }
}
