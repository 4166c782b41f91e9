// SPDX-License-Identifier: Apache-2.0
// The kernels over rows of floats in terms of one instruction set's primitives: included by kernels_<isa>.cc only,
// inside its anonymous namespace, after a struct `Isa` with
//
//   Floats, kWidth of them; load, store, spread (one value to all), fused(a, b, c) = a b + c in one rounding, plain
//   multiply, add and subtract, narrow (32 x i32 to i8, saturated), count_equal (of such), larger_size(a, b) (the
//   larger of |a| and b; b where a is NaN), round_half_up(x, q) (floor(x + 1/2) as i32; 0 where |x| is not below 2^30,
//   and then the result is false), swap_pairs, transpose(Floats[kWidth]), kTileVectors (how many vectors wide a tile of
//   the matrix product is)
//
//   Integers, kWidth x i32; no_integers (zeros), to_floats; Pairs, kWidth pairs of i16; load_pairs, spread_pair (one
//   pair to all), add_products(sum, a, b): both products of each pair added to its sum
//
//   interleave(low, high, pairs, sizes): two rows of 32 x i16 as 32 pairs; sums of |unit| per slot are added to
//   sizes[kSizes], in any order of slots; a bit per quad of slots that is not all zero. all_within(sizes, most)
//
//   Halves, 2 kWidth x u16; from_integers (kWidth x i16), to_halves<bf16> (of two Floats), transpose(Halves[8]) (8 x 8
//   within each eight), store_eight (one of them)
//
// Loops without primitives are left to the compiler's vectorizer: it may not reorder floating-point sums.

inline constexpr size_t kTileSlots = 4;

// kTileSlots rows x `Vectors` vectors of the product, in registers. Pairs whose units are all zero are left out.
template <size_t Vectors>
inline void matrix_tile(const int16_t* units, const uint64_t* used, size_t words, const int16_t* weights, size_t first,
                        const float* scale, const float* mean, float* rows, size_t dim) {
  typename Isa::Integers sum[kTileSlots][Vectors];
  for (auto& row : sum) {
    for (auto& vector : row) vector = Isa::no_integers();
  }
  for (size_t word = 0; word < words; ++word) {
    for (uint64_t left = used[word * kQuads]; left != 0; left &= left - 1) {
      const size_t pair = word * 64 + static_cast<size_t>(__builtin_ctzll(left));
      const int16_t* across = weights + (pair * dim + first) * 2;
      const int16_t* of_slots = units + pair * 2 * kLanes;
      typename Isa::Pairs weight[Vectors];
      for (size_t v = 0; v < Vectors; ++v) weight[v] = Isa::load_pairs(across + v * 2 * Isa::kWidth);
      for (size_t s = 0; s < kTileSlots; ++s) {
        const auto unit = Isa::spread_pair(of_slots + 2 * s);
        for (size_t v = 0; v < Vectors; ++v) sum[s][v] = Isa::add_products(sum[s][v], unit, weight[v]);
      }
    }
  }
  for (size_t s = 0; s < kTileSlots; ++s) {
    const auto factor = Isa::spread(scale[s]);
    for (size_t v = 0; v < Vectors; ++v) {
      const size_t at = first + v * Isa::kWidth;
      Isa::store(Isa::fused(Isa::to_floats(sum[s][v]), factor, Isa::load(mean + at)), rows + s * dim + at);
    }
  }
}

void inverse_matrix(const int16_t* units, const uint64_t* used, size_t pairs, const int16_t* weights, size_t dim,
                    const float* scale, const float* mean, float* rows) {
  constexpr size_t kWide = Isa::kTileVectors * Isa::kWidth;
  const size_t words = pair_words(pairs);
  for (size_t quad = 0; quad < kQuads; ++quad) {
    const size_t slot = quad * kTileSlots;
    const int16_t* of_quad = units + 2 * slot;
    float* out = rows + slot * dim;
    size_t first = 0;
    for (; first + kWide <= dim; first += kWide) {
      matrix_tile<Isa::kTileVectors>(of_quad, used + quad, words, weights, first, scale + slot, mean, out, dim);
    }
    if constexpr (Isa::kTileVectors > 2) {
      for (; first + 2 * Isa::kWidth <= dim; first += 2 * Isa::kWidth) {
        matrix_tile<2>(of_quad, used + quad, words, weights, first, scale + slot, mean, out, dim);
      }
    }
    for (; first + Isa::kWidth <= dim; first += Isa::kWidth) {
      matrix_tile<1>(of_quad, used + quad, words, weights, first, scale + slot, mean, out, dim);
    }
    for (; first < dim; ++first) {
      for (size_t s = 0; s < kTileSlots; ++s) {
        int32_t sum = 0;
        for (size_t pair = 0; pair < pairs; ++pair) {
          const int16_t* unit = of_quad + (pair * kLanes + s) * 2;
          const int16_t* weight = weights + (pair * dim + first) * 2;
          sum += int32_t{unit[0]} * weight[0] + int32_t{unit[1]} * weight[1];
        }
        out[s * dim + first] = __builtin_fmaf(static_cast<float>(sum), scale[slot + s], mean[first]);
      }
    }
  }
}

// The quads' bits of 8 pairs: from a byte per pair to a byte per quad, an 8 x 8 matrix of bits transposed (Hacker's
// Delight 7-3).
inline uint64_t bits_by_quad(uint64_t bytes) {
  uint64_t swapped = (bytes ^ (bytes >> 7)) & 0x00aa00aa00aa00aaull;
  bytes ^= swapped ^ (swapped << 7);
  swapped = (bytes ^ (bytes >> 14)) & 0x0000cccc0000ccccull;
  bytes ^= swapped ^ (swapped << 14);
  swapped = (bytes ^ (bytes >> 28)) & 0x00000000f0f0f0f0ull;
  return bytes ^ swapped ^ (swapped << 28);
}

bool pair_units(const int16_t* q, size_t components, int16_t* units, uint64_t* used) {
  static constexpr int16_t kNothing[kLanes] = {};
  const size_t pairs = (components + 1) / 2;
  for (size_t i = 0; i < pair_words(pairs) * kQuads; ++i) used[i] = 0;
  typename Isa::Integers sizes[Isa::kSizes];
  for (auto& vector : sizes) vector = Isa::no_integers();
  for (size_t first = 0; first < pairs; first += 8) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < 8 && first + i < pairs; ++i) {
      const size_t pair = first + i;
      const int16_t* low = q + pair * 2 * kLanes;
      const int16_t* high = 2 * pair + 1 < components ? low + kLanes : kNothing;
      bytes |= uint64_t{Isa::interleave(low, high, units + pair * 2 * kLanes, sizes)} << (8 * i);
    }
    const uint64_t by_quad = bits_by_quad(bytes);
    for (size_t quad = 0; quad < kQuads; ++quad) {
      used[first / 64 * kQuads + quad] |= ((by_quad >> (8 * quad)) & 0xff) << (first % 64);
    }
  }
  return Isa::all_within(sizes, kMostUnits);
}

// 32 tokens' values [dim][32] times columns [dim][32 components]: kTileSlots components at a time.
void forward_group(const float* columns, const float* values, size_t dim, size_t count, float* components) {
  constexpr size_t kVectors = kLanes / Isa::kWidth < 4 ? kLanes / Isa::kWidth : 4;
  for (size_t component = 0; component < count; component += kTileSlots) {
    for (size_t token = 0; token < kLanes; token += kVectors * Isa::kWidth) {
      typename Isa::Floats sum[kTileSlots][kVectors];
      for (auto& row : sum) {
        for (auto& vector : row) vector = Isa::spread(0.0f);
      }
      for (size_t d = 0; d < dim; ++d) {
        typename Isa::Floats across[kVectors];
        for (size_t v = 0; v < kVectors; ++v) across[v] = Isa::load(values + d * kLanes + token + v * Isa::kWidth);
        for (size_t c = 0; c < kTileSlots; ++c) {
          const auto weight = Isa::spread(columns[d * kLanes + component + c]);
          for (size_t v = 0; v < kVectors; ++v) sum[c][v] = Isa::fused(weight, across[v], sum[c][v]);
        }
      }
      for (size_t c = 0; c < kTileSlots; ++c) {
        float* out = components + (component + c) * kLanes + token;
        for (size_t v = 0; v < kVectors; ++v) Isa::store(sum[c][v], out + v * Isa::kWidth);
      }
    }
  }
}

void inverse_none(const float* units, size_t dim, const float* scale, const float* mean, float* rows) {
  constexpr size_t kWidth = Isa::kWidth;
  size_t first = 0;
  for (; first + kWidth <= dim; first += kWidth) {
    for (size_t slot = 0; slot < kLanes; slot += kWidth) {
      const auto factor = Isa::load(scale + slot);
      typename Isa::Floats block[kWidth];
      for (size_t i = 0; i < kWidth; ++i) {
        block[i] = Isa::fused(Isa::load(units + (first + i) * kLanes + slot), factor, Isa::spread(mean[first + i]));
      }
      Isa::transpose(block);
      for (size_t i = 0; i < kWidth; ++i) Isa::store(block[i], rows + (slot + i) * dim + first);
    }
  }
  for (; first < dim; ++first) {
    for (size_t slot = 0; slot < kLanes; ++slot) {
      rows[slot * dim + first] = __builtin_fmaf(units[first * kLanes + slot], scale[slot], mean[first]);
    }
  }
}

void to_f16(const float* values, size_t count, uint16_t* halves);
void to_bf16(const float* values, size_t count, uint16_t* halves);

template <bool kBf16>
void none_to_halves(const int16_t* q, size_t dim, const float* scale, const float* mean, uint16_t* const* rows) {
  constexpr size_t kWidth = Isa::kWidth;
  constexpr size_t kBlock = 8;  // channels that are turned into tokens' rows at a time
  size_t first = 0;
  for (; first + kBlock <= dim; first += kBlock) {
    for (size_t slot = 0; slot < kLanes; slot += 2 * kWidth) {
      const auto low = Isa::load(scale + slot);
      const auto high = Isa::load(scale + slot + kWidth);
      typename Isa::Halves block[kBlock];
      for (size_t i = 0; i < kBlock; ++i) {
        const int16_t* of_channel = q + (first + i) * kLanes + slot;
        const auto offset = Isa::spread(mean[first + i]);
        block[i] = Isa::template to_halves<kBf16>(Isa::fused(Isa::from_integers(of_channel), low, offset),
                                                  Isa::fused(Isa::from_integers(of_channel + kWidth), high, offset));
      }
      Isa::transpose(block);
      for (size_t eight = 0; eight < 2 * kWidth / kBlock; ++eight) {
        for (size_t i = 0; i < kBlock; ++i) Isa::store_eight(block[i], eight, rows[slot + eight * kBlock + i] + first);
      }
    }
  }
  for (; first < dim; ++first) {
    for (size_t slot = 0; slot < kLanes; ++slot) {
      const float unit = static_cast<float>(q[first * kLanes + slot]);
      const float value = __builtin_fmaf(unit, scale[slot], mean[first]);
      (kBf16 ? to_bf16 : to_f16)(&value, 1, rows[slot] + first);
    }
  }
}

void hadamard(float* units, size_t dim, size_t block) {
  for (size_t width = 1; width < block; width *= 2) {
    for (size_t start = 0; start < dim; start += 2 * width) {
      float* a = units + start * kLanes;
      float* b = a + width * kLanes;
      for (size_t i = 0; i < width * kLanes; i += Isa::kWidth) {
        const auto x = Isa::load(a + i);
        const auto y = Isa::load(b + i);
        Isa::store(Isa::plus(x, y), a + i);
        Isa::store(Isa::minus(x, y), b + i);
      }
    }
  }
}

void units_of(const int16_t* q, size_t rows, float* units) {
  for (size_t i = 0; i < rows * kLanes; ++i) units[i] = static_cast<float>(q[i]);
}

void rotate_adjacent(float* row, size_t pairs, const float* cosine, const float* sine) {
  size_t i = 0;
  for (; i + Isa::kWidth <= 2 * pairs; i += Isa::kWidth) {
    const auto x = Isa::load(row + i);
    const auto turned = Isa::times(Isa::swap_pairs(x), Isa::load(sine + i));
    Isa::store(Isa::plus(Isa::times(x, Isa::load(cosine + i)), turned), row + i);
  }
  for (; i < 2 * pairs; i += 2) {
    const float a = row[i];
    const float b = row[i + 1];
    row[i] = a * cosine[i] + b * sine[i];
    row[i + 1] = b * cosine[i + 1] + a * sine[i + 1];
  }
}

void rotate_halves(float* row, size_t pairs, const float* cosine, const float* sine) {
  size_t i = 0;
  for (; i + Isa::kWidth <= pairs; i += Isa::kWidth) {
    const auto c = Isa::load(cosine + i);
    const auto s = Isa::load(sine + i);
    const auto a = Isa::load(row + i);
    const auto b = Isa::load(row + pairs + i);
    Isa::store(Isa::minus(Isa::times(a, c), Isa::times(b, s)), row + i);
    Isa::store(Isa::plus(Isa::times(a, s), Isa::times(b, c)), row + pairs + i);
  }
  for (; i < pairs; ++i) {
    const float a = row[i];
    const float b = row[pairs + i];
    row[i] = a * cosine[i] - b * sine[i];
    row[pairs + i] = a * sine[i] + b * cosine[i];
  }
}

void rotate(float* rows, size_t count, size_t stride, size_t pairs, bool adjacent, const float* angles,
            const uint32_t* index) {
  const size_t width = adjacent ? 2 * pairs : pairs;
  for (size_t i = 0; i < count; ++i) {
    const float* cosine = angles + 2 * width * (index != nullptr ? index[i] : i);
    if (adjacent) {
      rotate_adjacent(rows + i * stride, pairs, cosine, cosine + width);
    } else {
      rotate_halves(rows + i * stride, pairs, cosine, cosine + width);
    }
  }
}

void forward(const float* values, const float* columns, size_t dim, size_t count, float* components) {
  constexpr size_t kBlock = 8;  // vectors of sums in registers: as many chains as hide a multiply-add's latency
  size_t first = 0;
  const auto block = [&]<size_t kVectors>() {
    typename Isa::Floats sum[kVectors];
    for (auto& vector : sum) vector = Isa::spread(0.0f);
    for (size_t d = 0; d < dim; ++d) {
      const auto value = Isa::spread(values[d]);
      const float* column = columns + d * count + first;
      for (size_t v = 0; v < kVectors; ++v) sum[v] = Isa::fused(value, Isa::load(column + v * Isa::kWidth), sum[v]);
    }
    for (size_t v = 0; v < kVectors; ++v) Isa::store(sum[v], components + first + v * Isa::kWidth);
    first += kVectors * Isa::kWidth;
  };
  while (first + kBlock * Isa::kWidth <= count) block.template operator()<kBlock>();
  while (first + 4 * Isa::kWidth <= count) block.template operator()<4>();
  while (first + Isa::kWidth <= count) block.template operator()<1>();
  for (; first < count; ++first) {
    float sum = 0;
    for (size_t d = 0; d < dim; ++d) sum = __builtin_fmaf(values[d], columns[d * count + first], sum);
    components[first] = sum;
  }
}

void columns_of(const float* const* rows, size_t dim, float* values) {
  constexpr size_t kWidth = Isa::kWidth;
  size_t first = 0;
  for (; first + kWidth <= dim; first += kWidth) {
    for (size_t lane = 0; lane < kLanes; lane += kWidth) {
      typename Isa::Floats block[kWidth];
      for (size_t i = 0; i < kWidth; ++i) block[i] = Isa::load(rows[lane + i] + first);
      Isa::transpose(block);
      for (size_t i = 0; i < kWidth; ++i) Isa::store(block[i], values + (first + i) * kLanes + lane);
    }
  }
  for (; first < dim; ++first) {
    for (size_t lane = 0; lane < kLanes; ++lane) values[first * kLanes + lane] = rows[lane][first];
  }
}

bool quantize_columns(const float* values, size_t count, const float* inverse_step, int32_t* q, size_t stride) {
  bool inside = true;
  for (size_t c = 0; c < count; ++c) {
    for (size_t lane = 0; lane < kLanes; lane += Isa::kWidth) {
      const auto scaled = Isa::times(Isa::load(values + c * kLanes + lane), Isa::load(inverse_step + lane));
      inside &= Isa::round_half_up(scaled, q + c * stride + lane);
    }
  }
  return inside;
}

void parents_of(const int32_t* q, size_t count, int32_t* parents) {
  // (q + 1 + 3 k) / 3 rounds down for any k that makes it positive; 2^30 + 2 is a multiple of 3.
  constexpr uint32_t kShift = (1u << 30) + 2;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t shifted = static_cast<uint32_t>(q[i] + 1) + kShift;
    parents[i] = static_cast<int32_t>(shifted / 3) - static_cast<int32_t>(kShift / 3);
  }
}

void symbols_of(const int32_t* q, int largest, uint8_t* symbols) {
  const auto value = Isa::narrow(q);
  const auto most = Isa::splat(static_cast<uint8_t>(largest));
  const auto least = Isa::splat(static_cast<uint8_t>(-largest));
  const auto escape = Isa::splat(15);
  const auto small = Isa::select(Isa::greater(value, most), escape, Isa::add(value, Isa::splat(7)));
  Isa::store_bytes(Isa::select(Isa::greater(least, value), escape, small), symbols);
}

void digits_of(const int32_t* q, const int32_t* parents, uint8_t* symbols) {
  int32_t difference[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) difference[lane] = q[lane] - 3 * parents[lane];
  const auto digit = Isa::narrow(difference);
  const auto parent = Isa::narrow(parents);
  const auto zero = Isa::splat(0);
  const auto positive = Isa::greater(parent, zero);
  const auto negative = Isa::greater(zero, parent);
  // 1 + digit below zero; kDigitContext + 1 + digit, or minus digit, beside it.
  const auto beside = Isa::splat(kDigitContext + 1);
  auto index = Isa::select(positive, Isa::add(beside, digit), Isa::add(Isa::splat(1), digit));
  index = Isa::select(negative, Isa::subtract(beside, digit), index);
  Isa::store_bytes(index, symbols);
}

uint32_t count_values(const int32_t* q, size_t count, uint32_t* counts) {
  int32_t most = 0;
  int32_t least = 0;
  for (size_t i = 0; i < count; ++i) {
    most = q[i] > most ? q[i] : most;
    least = q[i] < least ? q[i] : least;
  }
  const int32_t largest = most > -least ? most : -least;
  if (largest > static_cast<int32_t>(kCounted)) return static_cast<uint32_t>(largest);
  for (int32_t v = -largest; v <= largest; ++v) counts[static_cast<int32_t>(kCounted) + v] = 0;
  for (size_t first = 0; first < count; first += kLanes) {
    int32_t rest[kLanes];
    const int32_t* block = q + first;
    if (count - first < kLanes) {
      for (int32_t& lane : rest) lane = kCounted + 1;
      __builtin_memcpy(rest, block, (count - first) * sizeof(int32_t));
      block = rest;
    }
    const auto bytes = Isa::narrow(block);
    for (int32_t v = least; v <= most; ++v) {
      counts[static_cast<int32_t>(kCounted) + v] += Isa::count_equal(bytes, static_cast<int8_t>(v));
    }
  }
  return static_cast<uint32_t>(largest);
}

void errors_of(const float* a, const float* b, size_t count, float* sum, float* largest) {
  constexpr size_t kVectors = kErrorChains / Isa::kWidth;
  typename Isa::Floats squares[kVectors];
  typename Isa::Floats sizes[kVectors];
  for (size_t v = 0; v < kVectors; ++v) {
    squares[v] = Isa::load(sum + v * Isa::kWidth);
    sizes[v] = Isa::load(largest + v * Isa::kWidth);
  }
  size_t i = 0;
  for (; i + kErrorChains <= count; i += kErrorChains) {
    for (size_t v = 0; v < kVectors; ++v) {
      const auto error = Isa::minus(Isa::load(a + i + v * Isa::kWidth), Isa::load(b + i + v * Isa::kWidth));
      squares[v] = Isa::plus(squares[v], Isa::times(error, error));
      sizes[v] = Isa::larger_size(error, sizes[v]);
    }
  }
  for (size_t v = 0; v < kVectors; ++v) {
    Isa::store(squares[v], sum + v * Isa::kWidth);
    Isa::store(sizes[v], largest + v * Isa::kWidth);
  }
  for (size_t chain = 0; i < count; ++i, ++chain) {
    const float error = a[i] - b[i];
    const float size = error < 0 ? -error : error;
    sum[chain] += error * error;
    largest[chain] = size > largest[chain] ? size : largest[chain];
  }
}

void to_bf16(const float* values, size_t count, uint16_t* halves) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    halves[i] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
}

void from_bf16(const uint16_t* halves, size_t count, float* values) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(halves[i]) << 16;
    __builtin_memcpy(values + i, &bits, sizeof bits);
  }
}
