// SPDX-License-Identifier: Apache-2.0
// f16 against its definition, f16 and bf16 narrowing against the nearer of two neighbours.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "formats/half.h"

using namespace kvpack;

namespace {

// The value of an f16 by its definition (IEEE 754-2019, 3.4): (-1)^s * 2^(e - 15) * (1 + m / 1024).
double value_by_definition(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

bool is_nan(uint16_t half) { return (half & 0x7fff) > 0x7c00; }

// The nearer of two neighbours in `to_f32`'s order, ties to the even one.
template <typename Widen>
uint16_t nearest(float value, uint16_t below, Widen widen) {
  const double low = std::fabs(double{widen(below)});
  const double high = std::fabs(double{widen(static_cast<uint16_t>(below + 1))});
  const double middle = (low + high) / 2;
  const double magnitude = std::fabs(double{value});
  if (magnitude == middle) return (below & 1) == 0 ? below : static_cast<uint16_t>(below + 1);
  return magnitude < middle ? below : static_cast<uint16_t>(below + 1);
}

}  // namespace

TEST_CASE("f16: every finite value widens by its definition and narrows to itself") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) == 0x7c00) continue;
    const float wide = f16_to_f32(half);
    if (double{wide} != value_by_definition(half) || std::signbit(wide) != ((half & 0x8000) != 0))
      FAIL("bits " << bits);
    if (f32_to_f16(wide) != half) FAIL("bits " << bits);
  }
}

TEST_CASE("f16: infinities and every NaN") {
  CHECK(f16_to_f32(0x7c00) == std::numeric_limits<float>::infinity());
  CHECK(f16_to_f32(0xfc00) == -std::numeric_limits<float>::infinity());
  CHECK(f32_to_f16(std::numeric_limits<float>::infinity()) == 0x7c00);
  CHECK(f32_to_f16(-std::numeric_limits<float>::infinity()) == 0xfc00);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (!is_nan(half)) continue;
    const float wide = f16_to_f32(half);
    if (!std::isnan(wide)) FAIL("bits " << bits);
    if (f32_to_f16(wide) != (half | 0x200)) FAIL("bits " << bits);  // quiet, its payload kept
  }
  // Payload bits that f16 has no room for must not turn a NaN into an infinity.
  CHECK(is_nan(f32_to_f16(std::bit_cast<float>(0x7f800001u))));
  CHECK(is_nan(f32_to_f16(std::bit_cast<float>(0xff800001u))));
}

TEST_CASE("f16: midpoints between neighbours go to the even one, all others to the nearer") {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto below = static_cast<uint16_t>(bits);
    const auto above = static_cast<uint16_t>(bits + 1);
    const float middle = (f16_to_f32(below) + f16_to_f32(above)) / 2;  // exact in f32
    const uint16_t even = (below & 1) == 0 ? below : above;
    if (f32_to_f16(middle) != even || f32_to_f16(-middle) != (even | 0x8000)) FAIL("bits " << bits);
    if (f32_to_f16(std::nextafterf(middle, 0)) != below) FAIL("bits " << bits);
    if (f32_to_f16(std::nextafterf(middle, 1e9f)) != above) FAIL("bits " << bits);
  }
}

TEST_CASE("f16: overflow and underflow") {
  CHECK(f32_to_f16(65504.0f) == 0x7bff);
  CHECK(f32_to_f16(std::nextafterf(65520.0f, 0)) == 0x7bff);
  CHECK(f32_to_f16(65520.0f) == 0x7c00);
  CHECK(f32_to_f16(std::numeric_limits<float>::max()) == 0x7c00);
  CHECK(f32_to_f16(0x1p-25f) == 0);  // half of the smallest subnormal: to even
  CHECK(f32_to_f16(std::nextafterf(0x1p-25f, 1)) == 1);
  CHECK(f32_to_f16(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(f32_to_f16(-std::numeric_limits<float>::denorm_min()) == 0x8000);
}

TEST_CASE("bf16: every value widens exactly and narrows to itself, NaNs stay NaNs") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto value = static_cast<uint16_t>(bits);
    const float wide = bf16_to_f32(value);
    if (std::bit_cast<uint32_t>(wide) != bits << 16) FAIL("bits " << bits);
    const bool nan = (bits & 0x7fff) > 0x7f80;
    if (std::isnan(wide) != nan) FAIL("bits " << bits);
    if (f32_to_bf16(wide) != (nan ? value | 0x40 : value)) FAIL("bits " << bits);
  }
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0xffffffffu)))));
}

TEST_CASE("bf16 and f16: random values go to the nearest, ties to even") {
  std::mt19937 random(5);
  for (int i = 0; i < 200000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    const float value = std::bit_cast<float>(bits & 0x7fffffffu);
    if (std::isfinite(value) && value < bf16_to_f32(0x7f7f)) {
      const auto below = static_cast<uint16_t>((bits & 0x7fffffffu) >> 16);
      if (f32_to_bf16(value) != nearest(value, below, bf16_to_f32)) FAIL("bits " << bits);
    }
    const float small = std::ldexp(static_cast<float>(bits >> 8), static_cast<int>(bits % 44) - 52);
    if (small >= f16_to_f32(0x7bff)) continue;
    uint16_t below = 0;  // the largest f16 that is not above
    for (uint16_t step = 0x4000; step > 0; step >>= 1) {
      if (below + step < 0x7c00 && f16_to_f32(static_cast<uint16_t>(below + step)) <= small) below += step;
    }
    if (f32_to_f16(small) != nearest(small, below, f16_to_f32)) FAIL("value " << small);
  }
  CHECK(f32_to_bf16(std::numeric_limits<float>::max()) == 0x7f80);  // beyond the largest bf16: infinity
}
