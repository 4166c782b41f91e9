// SPDX-License-Identifier: Apache-2.0
// NEON, which every AArch64 machine has.
#include "codec/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <array>

namespace kvpack {
namespace {

// For each mask of 8 lanes: byte indices that bring the next bytes to the masked lanes, zero elsewhere (255 is out of
// range); and for the encoder those that bring the masked bytes together.
struct ShuffleTables {
  std::array<std::array<uint8_t, 8>, 256> expand{};
  std::array<std::array<uint8_t, 8>, 256> compress{};

  constexpr ShuffleTables() {
    for (size_t mask = 0; mask < 256; ++mask) {
      uint8_t taken = 0;
      for (size_t lane = 0; lane < 8; ++lane) {
        const bool set = (mask >> lane) & 1;
        expand[mask][lane] = set ? taken : 255;
        if (set) compress[mask][taken++] = static_cast<uint8_t>(lane);
      }
    }
  }
};
constexpr ShuffleTables kShuffles;

struct Isa {
  // Lanes 8 i .. 8 i + 7 and 16 i .. 16 i + 15.
  struct State {
    uint16x8_t part[4];
  };
  struct Bytes {
    uint8x16_t half[2];
  };
  using Table = uint8x16_t;
  using Floats = float32x4_t;
  static constexpr size_t kWidth = 4;
  static constexpr size_t kTileVectors = 4;

  template <typename Each>
  static State each(const Each& of) {
    return {{of(0), of(1), of(2), of(3)}};
  }
  static uint8x8_t eighth(const Bytes& x, int i) {
    return (i & 1) != 0 ? vget_high_u8(x.half[i / 2]) : vget_low_u8(x.half[i / 2]);
  }

  static State load(const uint16_t* at) {
    return each([&](int i) { return vld1q_u16(at + 8 * i); });
  }
  static State load(const int16_t* at) {
    return each([&](int i) { return vreinterpretq_u16_s16(vld1q_s16(at + 8 * i)); });
  }
  static void store(const State& x, uint16_t* at) {
    for (int i = 0; i < 4; ++i) vst1q_u16(at + 8 * i, x.part[i]);
  }
  static void store(const State& x, int16_t* at) {
    for (int i = 0; i < 4; ++i) vst1q_s16(at + 8 * i, vreinterpretq_s16_u16(x.part[i]));
  }
  static Bytes load_bytes(const uint8_t* at) { return {{vld1q_u8(at), vld1q_u8(at + 16)}}; }
  static void store_bytes(const Bytes& x, uint8_t* at) {
    vst1q_u8(at, x.half[0]);
    vst1q_u8(at + 16, x.half[1]);
  }
  static Table table(const uint8_t* at) { return vld1q_u8(at); }
  static Bytes lookup(Table table, const Bytes& index) {
    const uint8x16_t low = vdupq_n_u8(15);
    return {{vqtbl1q_u8(table, vandq_u8(index.half[0], low)), vqtbl1q_u8(table, vandq_u8(index.half[1], low))}};
  }
  static Bytes splat(uint8_t x) { return {{vdupq_n_u8(x), vdupq_n_u8(x)}}; }
  static Bytes splat_four(const uint32_t* at) {
    const uint8x16_t four = vreinterpretq_u8_u32(vld1q_dup_u32(at));
    return {{four, four}};
  }
  static Bytes flip(const Bytes& x) {
    return {{veorq_u8(x.half[0], vdupq_n_u8(0x80)), veorq_u8(x.half[1], vdupq_n_u8(0x80))}};
  }
  static Bytes greater(const Bytes& a, const Bytes& b) {
    return {{vcgtq_s8(vreinterpretq_s8_u8(a.half[0]), vreinterpretq_s8_u8(b.half[0])),
             vcgtq_s8(vreinterpretq_s8_u8(a.half[1]), vreinterpretq_s8_u8(b.half[1]))}};
  }
  static Bytes add(const Bytes& a, const Bytes& b) {
    return {{vaddq_u8(a.half[0], b.half[0]), vaddq_u8(a.half[1], b.half[1])}};
  }
  static Bytes subtract(const Bytes& a, const Bytes& b) {
    return {{vsubq_u8(a.half[0], b.half[0]), vsubq_u8(a.half[1], b.half[1])}};
  }
  static Bytes larger(const Bytes& a, const Bytes& b) {
    return {{vmaxq_u8(a.half[0], b.half[0]), vmaxq_u8(a.half[1], b.half[1])}};
  }
  static bool any_equal(const Bytes& a, uint8_t x) {
    return vmaxvq_u8(vorrq_u8(vceqq_u8(a.half[0], vdupq_n_u8(x)), vceqq_u8(a.half[1], vdupq_n_u8(x)))) != 0;
  }
  static uint8x8_t mask_of_eight(uint32_t lanes) {
    const uint8x8_t bits = {1, 2, 4, 8, 16, 32, 64, 128};
    return vtst_u8(vdup_n_u8(static_cast<uint8_t>(lanes)), bits);
  }
  static Bytes mask_bytes(uint32_t lanes) {
    return {{vcombine_u8(mask_of_eight(lanes), mask_of_eight(lanes >> 8)),
             vcombine_u8(mask_of_eight(lanes >> 16), mask_of_eight(lanes >> 24))}};
  }
  static Bytes select(const Bytes& mask, const Bytes& a, const Bytes& b) {
    return {{vbslq_u8(mask.half[0], a.half[0], b.half[0]), vbslq_u8(mask.half[1], a.half[1], b.half[1])}};
  }
  // 0 or 0xffff by lane.
  static uint16x8_t wide_mask(uint32_t lanes) {
    return vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(mask_of_eight(lanes))));
  }
  static State select_lanes(uint32_t lanes, const State& a, const State& b) {
    return each([&](int i) { return vbslq_u16(wide_mask(lanes >> (8 * i)), a.part[i], b.part[i]); });
  }
  static Bytes low_bytes(const State& x) {
    return {{vcombine_u8(vmovn_u16(x.part[0]), vmovn_u16(x.part[1])),
             vcombine_u8(vmovn_u16(x.part[2]), vmovn_u16(x.part[3]))}};
  }
  static State widen(const Bytes& x) {
    return each([&](int i) { return vmovl_u8(eighth(x, i)); });
  }

  static State update(const State& x, const Bytes& frequency, const Bytes& offset) {
    const State f = widen(frequency);
    const State o = widen(offset);
    return each([&](int i) { return vmlaq_u16(o.part[i], vshrq_n_u16(x.part[i], 8), f.part[i]); });
  }
  static uint32_t bits_of(uint16x8_t mask) {
    const uint8x8_t bits = {1, 2, 4, 8, 16, 32, 64, 128};
    return vaddv_u8(vand_u8(vmovn_u16(mask), bits));
  }
  static State refill(const State& x, const uint8_t*& next, uint32_t active) {
    return each([&](int i) {
      uint16x8_t below = vcltq_u16(x.part[i], vdupq_n_u16(kRansLow));
      if (active != kAllLanes) below = vandq_u16(below, wide_mask(active >> (8 * i)));
      const uint32_t mask = bits_of(below);
      const uint16x8_t bytes = vmovl_u8(vtbl1_u8(vld1_u8(next), vld1_u8(kShuffles.expand[mask].data())));
      next += __builtin_popcount(mask);
      return vorrq_u16(vbslq_u16(below, vshlq_n_u16(x.part[i], 8), x.part[i]), bytes);
    });
  }

  static Bytes digit_context(const int16_t* q) {
    const State parent = load(q);
    const auto context = [&](int i) {
      return vand_u8(vmovn_u16(vtstq_u16(parent.part[i], parent.part[i])), vdup_n_u8(kDigitContext));
    };
    return {{vcombine_u8(context(0), context(1)), vcombine_u8(context(2), context(3))}};
  }
  static void store_symbols(const Bytes& index, uint32_t active, int16_t* q) {
    const State wide = widen(index);
    const State symbols = each([&](int i) { return vsubq_u16(wide.part[i], vdupq_n_u16(kFirstLeaf + 7)); });
    store(active == kAllLanes ? symbols : select_lanes(active, symbols, load(q)), q);
  }
  static void refine(const Bytes& index, const Bytes& context, uint32_t active, int16_t* q) {
    const State parent = load(q);
    const Bytes digits = subtract(subtract(index, context), splat(1));
    const State refined = each([&](int i) {
      const int16x8_t p = vreinterpretq_s16_u16(parent.part[i]);
      const int16x8_t digit = vmovl_s8(vreinterpret_s8_u8(eighth(digits, i)));
      const int16x8_t folded = vbslq_s16(vcltzq_s16(p), vnegq_s16(digit), digit);
      return vreinterpretq_u16_s16(vmlaq_n_s16(folded, p, 3));
    });
    store(select_lanes(active, refined, parent), q);
  }

  static bool any_above(const int16_t* q, int16_t most) {
    const int16x8_t a = vmaxq_s16(vld1q_s16(q), vld1q_s16(q + 8));
    const int16x8_t b = vmaxq_s16(vld1q_s16(q + 16), vld1q_s16(q + 24));
    return vmaxvq_s16(vmaxq_s16(a, b)) > most;
  }
  static State pair(const Bytes& low, const Bytes& high) {
    return each([&](int i) { return vorrq_u16(vmovl_u8(eighth(low, i)), vshll_n_u8(eighth(high, i), 8)); });
  }
  static State multiply_high(const State& a, const State& b) {
    return each([&](int i) {
      const uint32x4_t low = vmull_u16(vget_low_u16(a.part[i]), vget_low_u16(b.part[i]));
      return vshrn_high_n_u32(vshrn_n_u32(low, 16), vmull_high_u16(a.part[i], b.part[i]), 16);
    });
  }
  static State multiply_low(const State& a, const State& b) {
    return each([&](int i) { return vmulq_u16(a.part[i], b.part[i]); });
  }
  static State add_lanes(const State& a, const State& b) {
    return each([&](int i) { return vaddq_u16(a.part[i], b.part[i]); });
  }
  static State subtract_lanes(const State& a, const State& b) {
    return each([&](int i) { return vsubq_u16(a.part[i], b.part[i]); });
  }
  static State halve(const State& x) {
    return each([&](int i) { return vshrq_n_u16(x.part[i], 1); });
  }
  static State complement(const Bytes& frequency) {
    const State f = widen(frequency);
    return each([&](int i) { return vsubq_u16(vdupq_n_u16(256), f.part[i]); });
  }
  static State spill(const State& x, const State& limit, uint32_t active, uint8_t*& end) {
    uint8_t together[kLanes + 8];
    uint8_t* into = together;
    const State spilled = each([&](int i) {
      uint16x8_t high = vcgeq_u16(x.part[i], limit.part[i]);
      if (active != kAllLanes) high = vandq_u16(high, wide_mask(active >> (8 * i)));
      const uint32_t mask = bits_of(high);
      vst1_u8(into, vtbl1_u8(vmovn_u16(x.part[i]), vld1_u8(kShuffles.compress[mask].data())));
      into += __builtin_popcount(mask);
      return vbslq_u16(high, vshrq_n_u16(x.part[i], 8), x.part[i]);
    });
    end -= into - together;
    __builtin_memcpy(end, together, static_cast<size_t>(into - together));
    return spilled;
  }

  static Floats load(const float* at) { return vld1q_f32(at); }
  static void store(Floats x, float* at) { vst1q_f32(at, x); }
  static Floats spread(float x) { return vdupq_n_f32(x); }
  static Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static Floats times(Floats a, Floats b) { return vmulq_f32(a, b); }
  static Floats plus(Floats a, Floats b) { return vaddq_f32(a, b); }
  static Floats minus(Floats a, Floats b) { return vsubq_f32(a, b); }
  using Integers = int32x4_t;
  using Pairs = int16x8_t;
  static constexpr size_t kSizes = 8;
  static Integers no_integers() { return vdupq_n_s32(0); }
  static Floats to_floats(Integers x) { return vcvtq_f32_s32(x); }
  static Pairs load_pairs(const int16_t* at) { return vld1q_s16(at); }
  static Pairs spread_pair(const int16_t* at) {
    int32_t pair;
    __builtin_memcpy(&pair, at, sizeof pair);
    return vreinterpretq_s16_s32(vdupq_n_s32(pair));
  }
  static Integers add_products(Integers sum, Pairs a, Pairs b) {
    const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)));
  }
  static uint8_t interleave(const int16_t* low, const int16_t* high, int16_t* pairs, Integers* sizes) {
    uint32_t used = 0;
    for (int i = 0; i < 4; ++i) {
      const int16x8_t a = vld1q_s16(low + 8 * i);
      const int16x8_t b = vld1q_s16(high + 8 * i);
      const int16x8_t first = vzip1q_s16(a, b);
      const int16x8_t second = vzip2q_s16(a, b);
      vst1q_s16(pairs + 16 * i, first);
      vst1q_s16(pairs + 16 * i + 8, second);
      sizes[2 * i] = vpadalq_s16(sizes[2 * i], vabsq_s16(first));
      sizes[2 * i + 1] = vpadalq_s16(sizes[2 * i + 1], vabsq_s16(second));
      const uint64x2_t quads = vreinterpretq_u64_s16(vorrq_s16(a, b));
      used |= (vgetq_lane_u64(quads, 0) != 0 ? 1u : 0u) << (2 * i);
      used |= (vgetq_lane_u64(quads, 1) != 0 ? 2u : 0u) << (2 * i);
    }
    return static_cast<uint8_t>(used);
  }
  static bool all_within(const Integers* sizes, uint32_t most) {
    uint32_t largest = 0;
    for (size_t i = 0; i < kSizes; ++i) {
      const uint32_t of_vector = vmaxvq_u32(vreinterpretq_u32_s32(sizes[i]));
      largest = of_vector > largest ? of_vector : largest;
    }
    return largest <= most;
  }
  static Bytes narrow(const int32_t* q) {
    const auto sixteen = [](const int32_t* at) {
      const int16x8_t low = vcombine_s16(vqmovn_s32(vld1q_s32(at)), vqmovn_s32(vld1q_s32(at + 4)));
      const int16x8_t high = vcombine_s16(vqmovn_s32(vld1q_s32(at + 8)), vqmovn_s32(vld1q_s32(at + 12)));
      return vreinterpretq_u8_s8(vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
    };
    return {{sixteen(q), sixteen(q + 16)}};
  }
  static uint32_t count_equal(Bytes x, int8_t value) {
    const uint8x16_t wanted = vdupq_n_u8(static_cast<uint8_t>(value));
    const uint8x16_t low = vshrq_n_u8(vceqq_u8(x.half[0], wanted), 7);
    const uint8x16_t high = vshrq_n_u8(vceqq_u8(x.half[1], wanted), 7);
    return vaddvq_u8(vaddq_u8(low, high));
  }
  using Halves = uint16x8_t;
  static Floats from_integers(const int16_t* q) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(q))); }
  // 4 x f32 rounded to nearest even; NaNs stay NaNs.
  static uint16x4_t bf16_of(Floats x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
  }
  template <bool kBf16>
  static Halves to_halves(Floats a, Floats b) {
    if constexpr (kBf16) return vcombine_u16(bf16_of(a), bf16_of(b));
    return vcombine_u16(vreinterpret_u16_f16(vcvt_f16_f32(a)), vreinterpret_u16_f16(vcvt_f16_f32(b)));
  }
  static void transpose(Halves (&row)[8]) {
    uint32x4_t pairs[8];
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = vreinterpretq_u32_u16(vtrn1q_u16(row[i], row[i + 1]));
      pairs[i + 1] = vreinterpretq_u32_u16(vtrn2q_u16(row[i], row[i + 1]));
    }
    uint64x2_t fours[8];  // [rows 0..3 or 4..7][column of the first and fifth]
    for (int i = 0; i < 8; i += 4) {
      for (int k = 0; k < 2; ++k) {
        fours[i + k] = vreinterpretq_u64_u32(vtrn1q_u32(pairs[i + k], pairs[i + 2 + k]));
        fours[i + 2 + k] = vreinterpretq_u64_u32(vtrn2q_u32(pairs[i + k], pairs[i + 2 + k]));
      }
    }
    for (int i = 0; i < 4; ++i) {
      row[i] = vreinterpretq_u16_u64(vtrn1q_u64(fours[i], fours[4 + i]));
      row[4 + i] = vreinterpretq_u16_u64(vtrn2q_u64(fours[i], fours[4 + i]));
    }
  }
  static void store_eight(Halves x, size_t, uint16_t* at) { vst1q_u16(at, x); }
  static Floats larger_size(Floats a, Floats b) {
    const Floats size = vabsq_f32(a);
    return vbslq_f32(vcgtq_f32(size, b), size, b);
  }
  static bool round_half_up(Floats x, int32_t* q) {
    const uint32x4_t inside = vcltq_f32(vabsq_f32(x), vdupq_n_f32(0x1p30f));
    const Floats kept = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), inside));
    vst1q_s32(q, vcvtmq_s32_f32(vaddq_f32(kept, vdupq_n_f32(0.5f))));
    return vminvq_u32(inside) == 0xffffffffu;
  }
  static Floats swap_pairs(Floats x) { return vrev64q_f32(x); }

  static void transpose(Floats (&row)[4]) {
    const float32x4x2_t a = vtrnq_f32(row[0], row[1]);
    const float32x4x2_t b = vtrnq_f32(row[2], row[3]);
    row[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    row[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    row[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    row[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
  }
};

#include "codec/kernels_invert.h"
#include "codec/kernels_rans.h"
#include "codec/kernels_rows.h"

void to_f16(const float* values, size_t count, uint16_t* halves) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    vst1_u16(halves + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + i))));
  }
  for (; i < count; ++i) halves[i] = vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(values[i]))), 0);
}

void from_f16(const uint16_t* halves, size_t count, float* values) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) vst1q_f32(values + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + i))));
  for (; i < count; ++i) values[i] = vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(halves[i]))), 0);
}

constexpr Kernels kTable = {"neon",
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

const Kernels* neon_kernels() { return &kTable; }

}  // namespace kvpack

#else

namespace kvpack {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace kvpack

#endif
