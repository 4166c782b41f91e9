// SPDX-License-Identifier: Apache-2.0
// AVX-512 (BW, VL, VBMI2, VNNI): Ice Lake, Zen 4 and later. This file alone is compiled for them.
#include "codec/kernels.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VBMI2__) && defined(__AVX512VNNI__)
#include <immintrin.h>

namespace kvpack {
namespace {

struct Isa {
  using State = __m512i;
  using Bytes = __m256i;
  using Table = __m256i;
  using Floats = __m512;
  static constexpr size_t kWidth = 16;
  static constexpr size_t kTileVectors = 4;

  static State load(const uint16_t* at) { return _mm512_loadu_si512(at); }
  static void store(State x, uint16_t* at) { _mm512_storeu_si512(at, x); }
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
  static bool any_equal(Bytes a, uint8_t x) { return _mm256_cmpeq_epi8_mask(a, splat(x)) != 0; }
  static Bytes mask_bytes(uint32_t lanes) { return _mm256_movm_epi8(lanes); }
  static Bytes select(Bytes mask, Bytes a, Bytes b) { return _mm256_blendv_epi8(b, a, mask); }
  static State select_lanes(uint32_t lanes, State a, State b) { return _mm512_mask_mov_epi16(b, lanes, a); }
  static Bytes low_bytes(State x) { return _mm512_cvtepi16_epi8(x); }
  static State widen(Bytes x) { return _mm512_cvtepu8_epi16(x); }

  static State update(State x, Bytes frequency, Bytes offset) {
    return _mm512_add_epi16(_mm512_mullo_epi16(_mm512_srli_epi16(x, 8), widen(frequency)), widen(offset));
  }
  static State refill(State x, const uint8_t*& next, uint32_t active) {
    const __mmask32 low = _mm512_mask_cmplt_epu16_mask(active, x, _mm512_set1_epi16(kRansLow));
    const State bytes = widen(_mm256_maskz_expand_epi8(low, load_bytes(next)));
    next += __builtin_popcount(low);
    return _mm512_mask_or_epi32(x, 0xffff, _mm512_mask_slli_epi16(x, low, x, 8), bytes);
  }

  static Bytes digit_context(const int16_t* q) {
    const __m512i parent = _mm512_loadu_si512(q);
    return _mm256_maskz_mov_epi8(_mm512_test_epi16_mask(parent, parent), splat(kDigitContext));
  }
  static void store_symbols(Bytes index, uint32_t active, int16_t* q) {
    const __m512i symbols = _mm512_sub_epi16(widen(index), _mm512_set1_epi16(kFirstLeaf + 7));
    if (active == kAllLanes) {
      _mm512_storeu_si512(q, symbols);
    } else {
      _mm512_mask_storeu_epi16(q, active, symbols);
    }
  }
  static void refine(Bytes index, Bytes context, uint32_t active, int16_t* q) {
    const __m512i parent = _mm512_loadu_si512(q);
    __m512i digit = _mm512_cvtepi8_epi16(subtract(subtract(index, context), splat(1)));
    digit = _mm512_mask_sub_epi16(digit, _mm512_movepi16_mask(parent), _mm512_setzero_si512(), digit);
    const __m512i tripled = _mm512_add_epi16(_mm512_add_epi16(parent, parent), parent);
    const __m512i refined = _mm512_add_epi16(tripled, digit);
    _mm512_storeu_si512(q, _mm512_mask_mov_epi16(parent, active, refined));
  }

  static bool any_above(const int16_t* q, int16_t most) {
    return _mm512_cmpgt_epi16_mask(_mm512_loadu_si512(q), _mm512_set1_epi16(most)) != 0;
  }
  static State pair(Bytes low, Bytes high) { return _mm512_or_si512(widen(low), _mm512_slli_epi16(widen(high), 8)); }
  static State multiply_high(State a, State b) { return _mm512_mulhi_epu16(a, b); }
  static State multiply_low(State a, State b) { return _mm512_mullo_epi16(a, b); }
  static State add_lanes(State a, State b) { return _mm512_add_epi16(a, b); }
  static State subtract_lanes(State a, State b) { return _mm512_sub_epi16(a, b); }
  static State halve(State x) { return _mm512_srli_epi16(x, 1); }
  static State complement(Bytes frequency) { return _mm512_sub_epi16(_mm512_set1_epi16(256), widen(frequency)); }
  static State spill(State x, State limit, uint32_t active, uint8_t*& end) {
    const __mmask32 high = _mm512_mask_cmpge_epu16_mask(active, x, limit);
    const __m256i bytes = _mm256_maskz_compress_epi8(high, low_bytes(x));
    end -= __builtin_popcount(high);
    _mm256_mask_storeu_epi8(end, _bzhi_u32(kAllLanes, static_cast<uint32_t>(__builtin_popcount(high))), bytes);
    return _mm512_mask_srli_epi16(x, high, x, 8);
  }

  static Floats load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(Floats x, float* at) { _mm512_storeu_ps(at, x); }
  static Floats spread(float x) { return _mm512_set1_ps(x); }
  static Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats minus(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  using Integers = __m512i;
  using Pairs = __m512i;
  static constexpr size_t kSizes = 2;
  static Integers no_integers() { return _mm512_setzero_si512(); }
  static Floats to_floats(Integers x) { return _mm512_cvtepi32_ps(x); }
  static Pairs load_pairs(const int16_t* at) { return _mm512_loadu_si512(at); }
  static Pairs spread_pair(const int16_t* at) {
    int32_t pair;
    __builtin_memcpy(&pair, at, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static Integers add_products(Integers sum, Pairs a, Pairs b) { return _mm512_dpwssd_epi32(sum, a, b); }
  static uint8_t interleave(const int16_t* low, const int16_t* high, int16_t* pairs, Integers* sizes) {
    const __m512i a = _mm512_loadu_si512(low);
    const __m512i b = _mm512_loadu_si512(high);
    const __m512i even = _mm512_unpacklo_epi16(a, b);  // quads 0, 2, 4, 6
    const __m512i odd = _mm512_unpackhi_epi16(a, b);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    _mm512_storeu_si512(pairs, _mm512_permutex2var_epi64(even, first, odd));
    _mm512_storeu_si512(pairs + kLanes, _mm512_permutex2var_epi64(even, second, odd));
    const __m512i ones = _mm512_set1_epi16(1);
    sizes[0] = _mm512_dpwssd_epi32(sizes[0], _mm512_abs_epi16(even), ones);
    sizes[1] = _mm512_dpwssd_epi32(sizes[1], _mm512_abs_epi16(odd), ones);
    const __m512i either = _mm512_or_si512(a, b);
    return static_cast<uint8_t>(_mm512_test_epi64_mask(either, either));
  }
  static bool all_within(const Integers* sizes, uint32_t most) {
    return _mm512_cmpgt_epu32_mask(_mm512_max_epu32(sizes[0], sizes[1]), _mm512_set1_epi32(static_cast<int>(most))) ==
           0;
  }

  static Bytes narrow(const int32_t* q) {
    return _mm256_set_m128i(_mm512_cvtsepi32_epi8(_mm512_loadu_si512(q + 16)),
                            _mm512_cvtsepi32_epi8(_mm512_loadu_si512(q)));
  }
  static uint32_t count_equal(Bytes x, int8_t value) {
    return static_cast<uint32_t>(__builtin_popcount(_mm256_cmpeq_epi8_mask(x, _mm256_set1_epi8(value))));
  }
  using Halves = __m512i;
  static Floats from_integers(const int16_t* q) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(q))));
  }
  // 16 x f32 rounded to nearest even; NaNs stay NaNs.
  static __m256i bf16_of(Floats x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
  }
  template <bool kBf16>
  static Halves to_halves(Floats a, Floats b) {
    constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256i low = kBf16 ? bf16_of(a) : _mm512_cvtps_ph(a, kNearestEven);
    const __m256i high = kBf16 ? bf16_of(b) : _mm512_cvtps_ph(b, kNearestEven);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  static void transpose(Halves (&row)[8]) {
    Halves pairs[8], fours[8];
    for (int i = 0; i < 4; ++i) {
      pairs[i] = _mm512_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
      pairs[4 + i] = _mm512_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 2) {
      fours[i] = _mm512_unpacklo_epi32(pairs[i], pairs[i + 1]);
      fours[i + 1] = _mm512_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int k = 0; k < 2; ++k) {
        row[i + 2 * k] = _mm512_unpacklo_epi64(fours[i + k], fours[i + 2 + k]);
        row[i + 2 * k + 1] = _mm512_unpackhi_epi64(fours[i + k], fours[i + 2 + k]);
      }
    }
  }
  static void store_eight(Halves x, size_t which, uint16_t* at) {
    const auto to = reinterpret_cast<__m128i*>(at);
    if (which == 0) _mm_storeu_si128(to, _mm512_castsi512_si128(x));
    if (which == 1) _mm_storeu_si128(to, _mm512_extracti32x4_epi32(x, 1));
    if (which == 2) _mm_storeu_si128(to, _mm512_extracti32x4_epi32(x, 2));
    if (which == 3) _mm_storeu_si128(to, _mm512_extracti32x4_epi32(x, 3));
  }
  // max(a, b) is b where either is NaN.
  static Floats larger_size(Floats a, Floats b) { return _mm512_max_ps(_mm512_abs_ps(a), b); }
  static bool round_half_up(Floats x, int32_t* q) {
    const __mmask16 inside = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0x1p30f), _CMP_LT_OQ);
    const Floats shifted = _mm512_add_ps(_mm512_maskz_mov_ps(inside, x), _mm512_set1_ps(0.5f));
    _mm512_storeu_si512(q, _mm512_cvt_roundps_epi32(shifted, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    return inside == 0xffff;
  }
  static Floats swap_pairs(Floats x) { return _mm512_permute_ps(x, 0xb1); }

  static void transpose(Floats (&row)[16]) {
    Floats pairs[16];
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
    }
    Floats fours[16];  // [4 group + column in the 128-bit lane]
    for (int g = 0; g < 16; g += 4) {
      fours[g] = _mm512_shuffle_ps(pairs[g], pairs[g + 2], 0x44);
      fours[g + 1] = _mm512_shuffle_ps(pairs[g], pairs[g + 2], 0xee);
      fours[g + 2] = _mm512_shuffle_ps(pairs[g + 1], pairs[g + 3], 0x44);
      fours[g + 3] = _mm512_shuffle_ps(pairs[g + 1], pairs[g + 3], 0xee);
    }
    for (int c = 0; c < 4; ++c) {
      const Floats a = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
      const Floats b = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xdd);
      const Floats d = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
      const Floats e = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xdd);
      row[c] = _mm512_shuffle_f32x4(a, d, 0x88);
      row[8 + c] = _mm512_shuffle_f32x4(a, d, 0xdd);
      row[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
      row[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
    }
  }
};

#include "codec/kernels_invert.h"
#include "codec/kernels_rans.h"
#include "codec/kernels_rows.h"

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

__mmask16 first_lanes(size_t count) { return static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<uint32_t>(count))); }

void to_f16(const float* values, size_t count, uint16_t* halves) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + i), _mm512_cvtps_ph(_mm512_loadu_ps(values + i), kNearest));
  }
  if (i == count) return;
  const __mmask16 rest = first_lanes(count - i);
  _mm256_mask_storeu_epi16(halves + i, rest, _mm512_cvtps_ph(_mm512_maskz_loadu_ps(rest, values + i), kNearest));
}

void from_f16(const uint16_t* halves, size_t count, float* values) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm512_storeu_ps(values + i, _mm512_cvtph_ps(Isa::load_bytes(reinterpret_cast<const uint8_t*>(halves + i))));
  }
  if (i == count) return;
  const __mmask16 rest = first_lanes(count - i);
  _mm512_mask_storeu_ps(values + i, rest, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(rest, halves + i)));
}

constexpr Kernels kTable = {"avx512",
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

const Kernels* avx512_kernels() {
  const bool runs = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2");
  return runs ? &kTable : nullptr;
}

}  // namespace kvpack

#else

namespace kvpack {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace kvpack

#endif
