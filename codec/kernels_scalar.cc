// SPDX-License-Identifier: Apache-2.0
// The reference that every other table must equal bit for bit. Written for clarity.
#include <algorithm>
#include <bit>
#include <cmath>

#include "codec/kernels.h"
#include "codec/quantizer.h"
#include "formats/half.h"

namespace kvpack {
namespace {

// The code of one lane, or null if the step leaves the lane alone.
template <typename Step>
const void* code_of_lane(const Step& step, int lane) {
  if (step.runs == nullptr) return step.code;
  for (uint32_t run = 0; run < step.runs->count; ++run) {
    if ((step.runs->mask[run] >> lane) & 1u) return static_cast<const void* const*>(step.code)[run];
  }
  return nullptr;
}

uint32_t plain(uint8_t flipped) { return flipped ^ 0x80u; }

// The symbol's place in the code's tables, before % 16.
int find_symbol(const SymbolCode& code, uint32_t slot) {
  int place = 2;
  while (place < kFirstLeaf) place = 2 * place - (slot < plain(code.heap[place % 16]) ? 1 : 0);
  return place;
}

int find_digit(const DigitCode& code, uint32_t slot, int context) {
  return context + (slot >= plain(code.low[context]) ? 1 : 0) + (slot >= plain(code.high[context]) ? 1 : 0);
}

void advance(RansReader& reader, int lane, uint32_t frequency, uint32_t start) {
  const uint32_t x = reader.state[lane];
  uint32_t state = frequency * (x >> 8) + (x & 0xffu) - start;
  if (state < kRansLow) state = (state << 8) | *reader.next++;
  reader.state[lane] = static_cast<uint16_t>(state);
}

bool decode_step(RansReader& reader, const RansStep& step) {
  bool escaped = false;
  if (reader.next > reader.safe_end) reader.refill();
  for (int lane = 0; lane < kLanes; ++lane) {
    const void* code = code_of_lane(step, lane);
    if (code == nullptr) continue;
    const uint32_t slot = reader.state[lane] & 0xffu;
    int16_t& q = step.values[lane];
    if (step.kind == StepKind::kSymbol) {
      const auto& symbols = *static_cast<const SymbolCode*>(code);
      const int place = find_symbol(symbols, slot);
      advance(reader, lane, symbols.frequency[place % 16], symbols.start[place % 16]);
      q = static_cast<int16_t>(place - kFirstLeaf - 7);
      escaped |= q == kEscapeSymbol;
    } else {
      const auto& digits = *static_cast<const DigitCode*>(code);
      const int context = q != 0 ? kDigitContext : 0;
      const int index = find_digit(digits, slot, context);
      advance(reader, lane, digits.frequency[index], digits.start[index]);
      const int digit = index - context - 1;
      q = static_cast<int16_t>(3 * q + (q < 0 ? -digit : digit));
    }
  }
  return escaped;
}

uint32_t decode_together(std::span<RansWork> work) {
  uint32_t escaped = 0;
  for (size_t s = 0; s < work.size(); ++s) {
    for (const RansStep& step : work[s].steps) escaped |= decode_step(*work[s].reader, step) ? 1u << s : 0u;
    work[s].steps = {};
  }
  return escaped;
}

void rows_above(const int16_t* values, size_t rows, const int16_t* most, uint8_t* above) {
  for (size_t row = 0; row < rows; ++row, values += kLanes) {
    above[row] = std::any_of(values, values + kLanes, [&](int16_t value) { return value > most[row]; }) ? 1 : 0;
  }
}

uint8_t* encode_steps(uint16_t* state, std::span<const RansEncodeStep> steps, uint8_t* end) {
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    for (int lane = kLanes - 1; lane >= 0; --lane) {
      const auto* code = static_cast<const EncodeCode*>(code_of_lane(*step, lane));
      if (code == nullptr) continue;
      const int index = step->symbols[lane];
      const uint32_t frequency = code->frequency[index];
      const uint32_t bias = static_cast<uint32_t>(code->bias_low[index] | (code->bias_high[index] << 8));
      const uint32_t start = frequency == 1 ? bias - 255 : bias;
      uint32_t x = state[lane];
      // After the step below the state must stay under 2^16: (x / f) * 256 + ... < 2^16 iff x < f * 256.
      if (x >= frequency << 8) {
        *--end = static_cast<uint8_t>(x);
        x >>= 8;
      }
      state[lane] = static_cast<uint16_t>(((x / frequency) << 8) + x % frequency + start);
    }
  }
  return end;
}

bool pair_units(const int16_t* q, size_t components, int16_t* units, uint64_t* used) {
  const size_t pairs = (components + 1) / 2;
  std::fill_n(used, pair_words(pairs) * kQuads, uint64_t{0});
  uint32_t sizes[kLanes] = {};
  for (size_t k = 0; k < 2 * pairs; ++k) {
    for (size_t slot = 0; slot < kLanes; ++slot) {
      const int16_t unit = k < components ? q[k * kLanes + slot] : int16_t{0};
      units[(k / 2 * kLanes + slot) * 2 + k % 2] = unit;
      sizes[slot] += static_cast<uint32_t>(std::abs(int32_t{unit}));
      if (unit != 0) used[k / 128 * kQuads + slot / 4] |= uint64_t{1} << (k / 2 % 64);
    }
  }
  return std::all_of(sizes, sizes + kLanes, [](uint32_t size) { return size <= kMostUnits; });
}

void inverse_matrix(const int16_t* units, const uint64_t*, size_t pairs, const int16_t* weights, size_t dim,
                    const float* scale, const float* mean, float* rows) {
  for (size_t slot = 0; slot < kLanes; ++slot) {
    for (size_t d = 0; d < dim; ++d) {
      int32_t sum = 0;
      for (size_t k = 0; k < 2 * pairs; ++k) {
        sum += int32_t{units[(k / 2 * kLanes + slot) * 2 + k % 2]} * weights[(k / 2 * dim + d) * 2 + k % 2];
      }
      rows[slot * dim + d] = std::fma(static_cast<float>(sum), scale[slot], mean[d]);
    }
  }
}

void units_of(const int16_t* q, size_t rows, float* units) { std::copy_n(q, rows * kLanes, units); }

void inverse_none(const float* units, size_t dim, const float* scale, const float* mean, float* rows) {
  for (size_t slot = 0; slot < kLanes; ++slot) {
    for (size_t d = 0; d < dim; ++d) {
      rows[slot * dim + d] = std::fma(units[d * kLanes + slot], scale[slot], mean[d]);
    }
  }
}

template <uint16_t (*kConvert)(float)>
void none_to_halves(const int16_t* q, size_t dim, const float* scale, const float* mean, uint16_t* const* rows) {
  for (size_t slot = 0; slot < kLanes; ++slot) {
    for (size_t d = 0; d < dim; ++d) {
      rows[slot][d] = kConvert(std::fma(static_cast<float>(q[d * kLanes + slot]), scale[slot], mean[d]));
    }
  }
}

void hadamard(float* units, size_t dim, size_t block) {
  for (size_t width = 1; width < block; width *= 2) {
    for (size_t start = 0; start < dim; start += 2 * width) {
      for (size_t i = start * kLanes; i < (start + width) * kLanes; ++i) {
        const float a = units[i];
        const float b = units[i + width * kLanes];
        units[i] = a + b;
        units[i + width * kLanes] = a - b;
      }
    }
  }
}

void rotate(float* rows, size_t count, size_t stride, size_t pairs, bool adjacent, const float* angles,
            const uint32_t* index) {
  const size_t width = adjacent ? 2 * pairs : pairs;
  for (size_t n = 0; n < count; ++n) {
    float* row = rows + n * stride;
    const float* cosine = angles + 2 * width * (index != nullptr ? index[n] : n);
    const float* sine = cosine + width;
    for (size_t i = 0; i < pairs; ++i) {
      const size_t at = adjacent ? 2 * i : i;
      const size_t partner = adjacent ? 2 * i + 1 : i + pairs;
      const float a = row[at];
      const float b = row[partner];
      row[at] = adjacent ? a * cosine[at] + b * sine[at] : a * cosine[at] - b * sine[at];
      row[partner] = adjacent ? b * cosine[partner] + a * sine[partner] : a * sine[at] + b * cosine[at];
    }
  }
}

void forward(const float* values, const float* columns, size_t dim, size_t count, float* components) {
  for (size_t k = 0; k < count; ++k) {
    float sum = 0;
    for (size_t d = 0; d < dim; ++d) sum = std::fma(values[d], columns[d * count + k], sum);
    components[k] = sum;
  }
}

void forward_group(const float* columns, const float* values, size_t dim, size_t count, float* components) {
  for (size_t k = 0; k < (count + 3) / 4 * 4; ++k) {
    for (size_t token = 0; token < kLanes; ++token) {
      float sum = 0;
      for (size_t d = 0; d < dim; ++d) sum = std::fma(columns[d * kLanes + k], values[d * kLanes + token], sum);
      components[k * kLanes + token] = sum;
    }
  }
}

void columns_of(const float* const* rows, size_t dim, float* values) {
  for (size_t i = 0; i < dim * kLanes; ++i) values[i] = rows[i % kLanes][i / kLanes];
}

bool quantize_columns(const float* values, size_t count, const float* inverse_step, int32_t* q, size_t stride) {
  bool inside = true;
  for (size_t c = 0; c < count; ++c) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float scaled = values[c * kLanes + lane] * inverse_step[lane];
      const bool fits = std::fabs(scaled) < static_cast<float>(kMaxQuantized);
      q[c * stride + lane] = fits ? quantize(scaled, 1.0f) : 0;
      inside = inside && fits;
    }
  }
  return inside;
}

void parents_of(const int32_t* q, size_t count, int32_t* parents) {
  for (size_t i = 0; i < count; ++i) parents[i] = parent_of(q[i]);
}

void symbols_of(const int32_t* q, int largest, uint8_t* symbols) {
  for (int lane = 0; lane < kLanes; ++lane) {
    symbols[lane] = static_cast<uint8_t>(std::abs(int64_t{q[lane]}) <= largest ? q[lane] + 7 : 15);
  }
}

void digits_of(const int32_t* q, const int32_t* parents, uint8_t* symbols) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int32_t digit = q[lane] - 3 * parents[lane];
    const int context = parents[lane] != 0 ? kDigitContext : 0;
    symbols[lane] = static_cast<uint8_t>(context + 1 + (parents[lane] < 0 ? -digit : digit));
  }
}

uint32_t count_values(const int32_t* q, size_t count, uint32_t* counts) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<uint32_t>(std::abs(q[i])));
  if (largest > kCounted) return largest;
  std::fill_n(counts + kCounted - largest, 2 * largest + 1, 0u);
  for (size_t i = 0; i < count; ++i) ++counts[static_cast<int32_t>(kCounted) + q[i]];
  return largest;
}

void errors_of(const float* a, const float* b, size_t count, float* sum, float* largest) {
  for (size_t i = 0; i < count; ++i) {
    const float error = a[i] - b[i];
    const float size = error < 0 ? -error : error;
    float& most = largest[i % kErrorChains];
    sum[i % kErrorChains] += error * error;
    most = size > most ? size : most;
  }
}

void to_f16(const float* values, size_t count, uint16_t* halves) {
  for (size_t i = 0; i < count; ++i) halves[i] = f32_to_f16(values[i]);
}
void to_bf16(const float* values, size_t count, uint16_t* halves) {
  for (size_t i = 0; i < count; ++i) halves[i] = f32_to_bf16(values[i]);
}
void from_f16(const uint16_t* halves, size_t count, float* values) {
  for (size_t i = 0; i < count; ++i) {
    const float value = f16_to_f32(halves[i]);
    values[i] = std::isnan(value) ? std::bit_cast<float>(std::bit_cast<uint32_t>(value) | 0x400000u) : value;
  }
}
void from_bf16(const uint16_t* halves, size_t count, float* values) {
  for (size_t i = 0; i < count; ++i) values[i] = bf16_to_f32(halves[i]);
}

#include "codec/kernels_invert.h"

constexpr Kernels kTable = {"scalar",
                            decode_together,
                            rows_above,
                            encode_steps,
                            pair_units,
                            inverse_matrix,
                            units_of,
                            inverse_none,
                            none_to_halves<f32_to_f16>,
                            none_to_halves<f32_to_bf16>,
                            hadamard,
                            rotate,
                            forward,
                            forward_group,
                            invert,
                            columns_of,
                            quantize_columns,
                            parents_of,
                            symbols_of,
                            digits_of,
                            count_values,
                            errors_of,
                            to_f16,
                            to_bf16,
                            from_f16,
                            from_bf16};

}  // namespace

const Kernels& scalar_kernels() { return kTable; }

}  // namespace kvpack
