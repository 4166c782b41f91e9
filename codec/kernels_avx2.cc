// SPDX-License-Identifier: Apache-2.0
// AVX2 with FMA and F16C: Haswell, Zen and later. This file alone is compiled for them.
#include "codec/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#include <array>

namespace kvpack {
namespace {

// For each mask of 8 lanes: byte indices that bring the next bytes to the masked lanes of 16 bits, zero elsewhere; and
// for the encoder those that bring the masked bytes together.
struct ShuffleTables {
  alignas(16) std::array<std::array<uint8_t, 16>, 256> expand{};
  alignas(16) std::array<std::array<uint8_t, 8>, 256> compress{};

  constexpr ShuffleTables() {
    for (size_t mask = 0; mask < 256; ++mask) {
      uint8_t taken = 0;
      for (size_t lane = 0; lane < 8; ++lane) {
        const bool set = (mask >> lane) & 1;
        expand[mask][2 * lane] = set ? taken : 0x80;
        expand[mask][2 * lane + 1] = 0x80;
        if (set) compress[mask][taken++] = static_cast<uint8_t>(lane);
      }
    }
  }
};
constexpr ShuffleTables kShuffles;

struct Isa {
  // Lanes 0..7 and 16..23, 8..15 and 24..31: so bytes are widened and packed without crossing the register's middle.
  struct State {
    __m256i low, high;
  };
  using Bytes = __m256i;
  using Table = __m256i;
  using Floats = __m256;
  static constexpr size_t kWidth = 8;
  static constexpr size_t kTileVectors = 2;

  // Lanes 0..15 and 16..31 to a state, and the other way.
  static State regroup(__m256i a, __m256i b) {
    return {_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
  }
  static State load(const uint16_t* at) {
    return regroup(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)),
                   _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 16)));
  }
  static State load(const int16_t* at) { return load(reinterpret_cast<const uint16_t*>(at)); }
  static void store(State x, uint16_t* at) {
    const State halves = regroup(x.low, x.high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), halves.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + 16), halves.high);
  }
  static Bytes load_bytes(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static void store_bytes(Bytes x, uint8_t* at) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
  static Table table(const uint8_t* at) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Bytes lookup(Table table, Bytes index) { return _mm256_shuffle_epi8(table, index); }
  static Bytes splat(uint8_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  static Bytes splat_four(const uint32_t* at) { return _mm256_set1_epi32(static_cast<int>(*at)); }
  static Bytes flip(Bytes x) { return _mm256_xor_si256(x, splat(0x80)); }
  static Bytes greater(Bytes a, Bytes b) { return _mm256_cmpgt_epi8(a, b); }
  static Bytes add(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
  static Bytes subtract(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
  static Bytes larger(Bytes a, Bytes b) { return _mm256_max_epu8(a, b); }
  static bool any_equal(Bytes a, uint8_t x) { return _mm256_movemask_epi8(_mm256_cmpeq_epi8(a, splat(x))) != 0; }
  static Bytes mask_bytes(uint32_t lanes) {
    const __m256i spread =
        _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(lanes)),
                            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const __m256i bits = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
  }
  static Bytes select(Bytes mask, Bytes a, Bytes b) { return _mm256_blendv_epi8(b, a, mask); }
  static State widen_mask(Bytes mask) { return {_mm256_unpacklo_epi8(mask, mask), _mm256_unpackhi_epi8(mask, mask)}; }
  static State widen_signed(Bytes x) {
    const __m256i sign = _mm256_cmpgt_epi8(_mm256_setzero_si256(), x);
    return {_mm256_unpacklo_epi8(x, sign), _mm256_unpackhi_epi8(x, sign)};
  }
  static State select_lanes(uint32_t lanes, State a, State b) {
    if (lanes == kAllLanes) return a;
    const State mask = widen_mask(mask_bytes(lanes));
    return {_mm256_blendv_epi8(b.low, a.low, mask.low), _mm256_blendv_epi8(b.high, a.high, mask.high)};
  }
  // 16 x u16 below 256, twice, to 32 bytes in lane order.
  static Bytes pack(__m256i low, __m256i high) { return _mm256_packus_epi16(low, high); }
  static Bytes low_bytes(State x) {
    const __m256i byte = _mm256_set1_epi16(0xff);
    return pack(_mm256_and_si256(x.low, byte), _mm256_and_si256(x.high, byte));
  }
  static State widen(Bytes x) {
    const __m256i zero = _mm256_setzero_si256();
    return {_mm256_unpacklo_epi8(x, zero), _mm256_unpackhi_epi8(x, zero)};
  }

  static State update(State x, Bytes frequency, Bytes offset) {
    const State f = widen(frequency);
    const State o = widen(offset);
    return {_mm256_add_epi16(_mm256_mullo_epi16(_mm256_srli_epi16(x.low, 8), f.low), o.low),
            _mm256_add_epi16(_mm256_mullo_epi16(_mm256_srli_epi16(x.high, 8), f.high), o.high)};
  }
  static __m128i expand(uint32_t mask, const uint8_t* bytes) {
    return _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)),
                            _mm_load_si128(reinterpret_cast<const __m128i*>(kShuffles.expand[mask].data())));
  }
  static __m256i shift_in(__m256i x, __m256i below, __m128i first, __m128i second) {
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    return _mm256_or_si256(_mm256_blendv_epi8(x, _mm256_slli_epi16(x, 8), below), bytes);
  }
  static State refill(State x, const uint8_t*& next, uint32_t active) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i low = _mm256_cmpeq_epi16(_mm256_srli_epi16(x.low, 8), zero);
    __m256i high = _mm256_cmpeq_epi16(_mm256_srli_epi16(x.high, 8), zero);
    if (active != kAllLanes) {
      const State mask = widen_mask(mask_bytes(active));
      low = _mm256_and_si256(low, mask.low);
      high = _mm256_and_si256(high, mask.high);
    }
    const uint32_t below = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(low, high)));
    __m128i bytes[4];
    for (int eight = 0; eight < 4; ++eight) {
      const uint32_t mask = (below >> (8 * eight)) & 0xff;
      bytes[eight] = expand(mask, next);
      next += __builtin_popcount(mask);
    }
    return {shift_in(x.low, low, bytes[0], bytes[2]), shift_in(x.high, high, bytes[1], bytes[3])};
  }

  static Bytes digit_context(const int16_t* q) {
    const State parent = load(q);
    const __m256i zero = _mm256_setzero_si256();
    const Bytes none = _mm256_packs_epi16(_mm256_cmpeq_epi16(parent.low, zero), _mm256_cmpeq_epi16(parent.high, zero));
    return _mm256_andnot_si256(none, splat(kDigitContext));
  }
  static void store_symbols(Bytes index, uint32_t active, int16_t* q) {
    const State wide = widen(index);
    const __m256i middle = _mm256_set1_epi16(kFirstLeaf + 7);
    const State symbols = {_mm256_sub_epi16(wide.low, middle), _mm256_sub_epi16(wide.high, middle)};
    store(active == kAllLanes ? symbols : select_lanes(active, symbols, load(q)), reinterpret_cast<uint16_t*>(q));
  }
  static __m256i refine_half(__m256i parent, __m256i digit) {
    // sign(digit, parent) is zero for a zero parent, so that one's digit is added unsigned.
    const __m256i signed_digit = _mm256_sign_epi16(digit, _mm256_or_si256(parent, _mm256_set1_epi16(1)));
    return _mm256_add_epi16(_mm256_add_epi16(_mm256_add_epi16(parent, parent), parent), signed_digit);
  }
  static void refine(Bytes index, Bytes context, uint32_t active, int16_t* q) {
    const State parent = load(q);
    const State digit = widen_signed(subtract(subtract(index, context), splat(1)));
    const State refined = {refine_half(parent.low, digit.low), refine_half(parent.high, digit.high)};
    store(select_lanes(active, refined, parent), reinterpret_cast<uint16_t*>(q));
  }

  static bool any_above(const int16_t* q, int16_t most) {
    const State x = load(q);
    const __m256i limit = _mm256_set1_epi16(most);
    const __m256i above = _mm256_or_si256(_mm256_cmpgt_epi16(x.low, limit), _mm256_cmpgt_epi16(x.high, limit));
    return _mm256_testz_si256(above, above) == 0;
  }
  static State pair(Bytes low, Bytes high) {
    const State a = widen(low);
    const State b = widen(high);
    return {_mm256_or_si256(a.low, _mm256_slli_epi16(b.low, 8)), _mm256_or_si256(a.high, _mm256_slli_epi16(b.high, 8))};
  }
  static State multiply_high(State a, State b) {
    return {_mm256_mulhi_epu16(a.low, b.low), _mm256_mulhi_epu16(a.high, b.high)};
  }
  static State multiply_low(State a, State b) {
    return {_mm256_mullo_epi16(a.low, b.low), _mm256_mullo_epi16(a.high, b.high)};
  }
  static State add_lanes(State a, State b) {
    return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
  }
  static State subtract_lanes(State a, State b) {
    return {_mm256_sub_epi16(a.low, b.low), _mm256_sub_epi16(a.high, b.high)};
  }
  static State halve(State x) { return {_mm256_srli_epi16(x.low, 1), _mm256_srli_epi16(x.high, 1)}; }
  static State complement(Bytes frequency) {
    const State f = widen(frequency);
    const __m256i all = _mm256_set1_epi16(256);
    return {_mm256_sub_epi16(all, f.low), _mm256_sub_epi16(all, f.high)};
  }
  static State spill(State x, State limit, uint32_t active, uint8_t*& end) {
    // x >= limit, unsigned
    __m256i low = _mm256_cmpeq_epi16(_mm256_max_epu16(x.low, limit.low), x.low);
    __m256i high = _mm256_cmpeq_epi16(_mm256_max_epu16(x.high, limit.high), x.high);
    if (active != kAllLanes) {
      const State mask = widen_mask(mask_bytes(active));
      low = _mm256_and_si256(low, mask.low);
      high = _mm256_and_si256(high, mask.high);
    }
    const Bytes packed = _mm256_packs_epi16(low, high);
    const uint32_t mask = static_cast<uint32_t>(_mm256_movemask_epi8(packed));
    alignas(32) uint8_t bytes[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), low_bytes(x));
    uint8_t* start = end - __builtin_popcount(mask);
    uint8_t* at = start;
    uint8_t together[40];
    uint8_t* into = together;
    for (int eighth = 0; eighth < 4; ++eighth) {
      const uint32_t part = (mask >> (8 * eighth)) & 0xff;
      const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + 8 * eighth));
      const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kShuffles.compress[part].data()));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(into), _mm_shuffle_epi8(eight, order));
      into += __builtin_popcount(part);
    }
    __builtin_memcpy(at, together, static_cast<size_t>(end - start));
    end = start;
    return {_mm256_blendv_epi8(x.low, _mm256_srli_epi16(x.low, 8), low),
            _mm256_blendv_epi8(x.high, _mm256_srli_epi16(x.high, 8), high)};
  }

  static Floats load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(Floats x, float* at) { _mm256_storeu_ps(at, x); }
  static Floats spread(float x) { return _mm256_set1_ps(x); }
  static Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats minus(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  using Integers = __m256i;
  using Pairs = __m256i;
  static constexpr size_t kSizes = 4;
  static Integers no_integers() { return _mm256_setzero_si256(); }
  static Floats to_floats(Integers x) { return _mm256_cvtepi32_ps(x); }
  static Pairs load_pairs(const int16_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static Pairs spread_pair(const int16_t* at) {
    int32_t pair;
    __builtin_memcpy(&pair, at, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  static Integers add_products(Integers sum, Pairs a, Pairs b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
  static uint8_t interleave(const int16_t* low, const int16_t* high, int16_t* pairs, Integers* sizes) {
    uint32_t used = 0;
    for (int half = 0; half < 2; ++half) {
      const __m256i a = load_pairs(low + 16 * half);
      const __m256i b = load_pairs(high + 16 * half);
      const __m256i even = _mm256_unpacklo_epi16(a, b);  // quads 0 and 2
      const __m256i odd = _mm256_unpackhi_epi16(a, b);
      const auto to = reinterpret_cast<__m256i*>(pairs + 32 * half);
      _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
      const __m256i ones = _mm256_set1_epi16(1);
      sizes[2 * half] = add_products(sizes[2 * half], _mm256_abs_epi16(even), ones);
      sizes[2 * half + 1] = add_products(sizes[2 * half + 1], _mm256_abs_epi16(odd), ones);
      const __m256i unused = _mm256_cmpeq_epi64(_mm256_or_si256(a, b), _mm256_setzero_si256());
      used |= (~static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(unused))) & 0xf) << (4 * half);
    }
    return static_cast<uint8_t>(used);
  }
  static bool all_within(const Integers* sizes, uint32_t most) {
    const __m256i largest =
        _mm256_max_epu32(_mm256_max_epu32(sizes[0], sizes[1]), _mm256_max_epu32(sizes[2], sizes[3]));
    const __m256i limit = _mm256_set1_epi32(static_cast<int>(most));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_max_epu32(largest, limit), limit)) == -1;
  }
  static Bytes narrow(const int32_t* q) {
    const auto at = [q](int i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i)); };
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(at(0), at(8)), _mm256_packs_epi32(at(16), at(24)));
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static uint32_t count_equal(Bytes x, int8_t value) {
    const int equal = _mm256_movemask_epi8(_mm256_cmpeq_epi8(x, _mm256_set1_epi8(value)));
    return static_cast<uint32_t>(__builtin_popcount(static_cast<uint32_t>(equal)));
  }
  using Halves = __m256i;
  static Floats from_integers(const int16_t* q) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q))));
  }
  // The upper halves of 8 x f32, rounded to nearest even; NaNs stay NaNs.
  static __m256i bf16_of(Floats x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  }
  template <bool kBf16>
  static Halves to_halves(Floats a, Floats b) {
    if constexpr (kBf16) {
      return _mm256_permute4x64_epi64(_mm256_packus_epi32(bf16_of(a), bf16_of(b)), 0xd8);
    } else {
      constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
      return _mm256_set_m128i(_mm256_cvtps_ph(b, kNearest), _mm256_cvtps_ph(a, kNearest));
    }
  }
  static void transpose(Halves (&row)[8]) {
    Halves pairs[8], fours[8];
    for (int i = 0; i < 4; ++i) {
      pairs[i] = _mm256_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
      pairs[4 + i] = _mm256_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 2) {
      fours[i] = _mm256_unpacklo_epi32(pairs[i], pairs[i + 1]);
      fours[i + 1] = _mm256_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int k = 0; k < 2; ++k) {
        row[i + 2 * k] = _mm256_unpacklo_epi64(fours[i + k], fours[i + 2 + k]);
        row[i + 2 * k + 1] = _mm256_unpackhi_epi64(fours[i + k], fours[i + 2 + k]);
      }
    }
  }
  static void store_eight(Halves x, size_t which, uint16_t* at) {
    const __m128i eight = which == 0 ? _mm256_castsi256_si128(x) : _mm256_extracti128_si256(x, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), eight);
  }
  // max(a, b) is b where either is NaN.
  static Floats larger_size(Floats a, Floats b) { return _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a), b); }
  static bool round_half_up(Floats x, int32_t* q) {
    const Floats size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    const Floats inside = _mm256_cmp_ps(size, _mm256_set1_ps(0x1p30f), _CMP_LT_OQ);
    const Floats shifted = _mm256_add_ps(_mm256_and_ps(x, inside), _mm256_set1_ps(0.5f));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_cvttps_epi32(_mm256_floor_ps(shifted)));
    return _mm256_movemask_ps(inside) == 0xff;
  }
  static Floats swap_pairs(Floats x) { return _mm256_permute_ps(x, 0xb1); }

  static void transpose(Floats (&row)[8]) {
    Floats pairs[8];
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    Floats fours[8];
    for (int g = 0; g < 8; g += 4) {
      fours[g] = _mm256_shuffle_ps(pairs[g], pairs[g + 2], 0x44);
      fours[g + 1] = _mm256_shuffle_ps(pairs[g], pairs[g + 2], 0xee);
      fours[g + 2] = _mm256_shuffle_ps(pairs[g + 1], pairs[g + 3], 0x44);
      fours[g + 3] = _mm256_shuffle_ps(pairs[g + 1], pairs[g + 3], 0xee);
    }
    for (int c = 0; c < 4; ++c) {
      row[c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20);
      row[4 + c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31);
    }
  }
};

#include "codec/kernels_invert.h"
#include "codec/kernels_rans.h"
#include "codec/kernels_rows.h"

void to_f16(const float* values, size_t count, uint16_t* halves) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(halves + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  for (; i < count; ++i) halves[i] = _cvtss_sh(values[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

void from_f16(const uint16_t* halves, size_t count, float* values) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(values + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i))));
  }
  for (; i < count; ++i) values[i] = _cvtsh_ss(halves[i]);
}

constexpr Kernels kTable = {"avx2",
                            decode_together,
                            rows_above,
                            encode_steps,
                            pair_units,
                            inverse_matrix,
                            units_of,
                            inverse_none,
                            none_to_halves<false>,
                            none_to_halves<true>,
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

const Kernels* avx2_kernels() {
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  return runs ? &kTable : nullptr;
}

}  // namespace kvpack

#else

namespace kvpack {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace kvpack

#endif
