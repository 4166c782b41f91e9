// SPDX-License-Identifier: Apache-2.0
// The inner loops, once per instruction set. Every variant gives the same bits as the scalar one
// (tests/test_kernels.cc), sums of floats included: each fixes its order and its fused multiply-adds.
//
// kernels() is the best table that this machine can run, or the one that KVPACK_ISA names. The library takes the best
// one where KVPACK_ISA names none that it can run; the program refuses to (check_kernel_choice).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "codec/rans.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint32_t kCounted = 10;  // the largest magnitude that counting is faster for than one by one
inline constexpr size_t kErrorChains = 16;
inline constexpr size_t kQuads = kLanes / 4;
inline constexpr uint32_t kMostUnits = 65535;  // times 2^15, the largest weight, is below 2^31
constexpr size_t pair_words(size_t pairs) { return (pairs + 63) / 64; }

struct Kernels {
  std::string_view name;  // as KVPACK_ISA has it

  // Runs the steps of up to kMostStreams streams in turn, using them up: their chains of dependent instructions
  // overlap. Symbols that are kEscapeSymbol stand for escapes; the result has a bit set per stream with one in its
  // rows.
  uint32_t (*decode_together)(std::span<RansWork> work);
  // above[row] = 1 if any of values [rows][32] is above most[row], else 0.
  void (*rows_above)(const int16_t* values, size_t rows, const int16_t* most, uint8_t* above);
  // Codes the steps, last to first, downward from `end`; the new end. 32 bytes before each step's place are writable.
  uint8_t* (*encode_steps)(uint16_t* state, std::span<const RansEncodeStep> steps, uint8_t* end);

  // The inverse of a matrix in integers: any order of summing gives the same bits. Components go in pairs, an odd last
  // one with zeros. pair_units: units [pair][32][2] = q [components][32], and in used [pair_words][quad] a bit per pair
  // that is not zero in all four slots of the quad; false if the sizes |q| of a slot add up to more than kMostUnits, so
  // that sums may not fit. inverse_matrix: rows [32][dim] = f32(sum over pairs of units x weights [pair][dim][2]) times
  // scale[32], plus mean[dim], in one fused multiply-add.
  bool (*pair_units)(const int16_t* q, size_t components, int16_t* units, uint64_t* used);
  void (*inverse_matrix)(const int16_t* units, const uint64_t* used, size_t pairs, const int16_t* weights, size_t dim,
                         const float* scale, const float* mean, float* rows);
  // units [rows][32] = q as floats.
  void (*units)(const int16_t* q, size_t rows, float* units);
  // rows [32][dim] = units [dim][32] times scale[32], plus mean[dim]: one fused multiply-add each.
  void (*inverse_none)(const float* units, size_t dim, const float* scale, const float* mean, float* rows);
  // Both at once, straight to f16 or bf16: rows[32][dim] = q[dim][32] x scale[32] + mean[dim].
  void (*none_to_f16)(const int16_t* q, size_t dim, const float* scale, const float* mean, uint16_t* const* rows);
  void (*none_to_bf16)(const int16_t* q, size_t dim, const float* scale, const float* mean, uint16_t* const* rows);
  // Sylvester-Hadamard butterflies over [dim][32] in blocks of `block`, without the factor block^-1/2.
  void (*hadamard)(float* units, size_t dim, size_t block);
  // Turns rows[count], `stride` floats apart, row i by the angles at index[i] (null: i) of `angles` (rope.h): pairs
  // (j, j + pairs), or (2 j, 2 j + 1) if adjacent.
  void (*rotate)(float* rows, size_t count, size_t stride, size_t pairs, bool adjacent, const float* angles,
                 const uint32_t* index);

  // For the encoder. forward: components[count] = sum over d of values[d] x columns[d][count], d in order, one fused
  // multiply-add each. forward_group: the same for values [dim][32] and the first `count` (to whole fours) of columns
  // [dim][32], [count][32]. columns: values[dim][32] = rows[32][dim]. quantize: q[count], `stride` apart, of [32] =
  // values[count] [32] x inverse_step[32], rounded half up; false if one is not below kMaxQuantized. parents: the
  // integer nearest to q / 3. symbols [32]: q + 7, or 15 beyond +-largest. digits [32]: the index in a digit's code
  // (rans.h) of q under its parent. count: the largest magnitude of q[count]; if that is at most kCounted, counts[v +
  // kCounted] is set to how many are v, for all v that do not exceed it. errors: adds (a - b)^2 of [count] to sum, and
  // keeps the largest |a - b|, value i in chain i % kErrorChains.
  void (*forward)(const float* values, const float* columns, size_t dim, size_t count, float* components);
  void (*forward_group)(const float* columns, const float* values, size_t dim, size_t count, float* components);
  // a [n][n] becomes its inverse; false if it is (nearly) singular, and then it is spoilt.
  bool (*invert)(double* a, size_t n);
  void (*columns)(const float* const* rows, size_t dim, float* values);
  bool (*quantize)(const float* values, size_t count, const float* inverse_step, int32_t* q, size_t stride);
  void (*parents)(const int32_t* q, size_t count, int32_t* parents);
  void (*symbols)(const int32_t* q, int largest, uint8_t* symbols);
  void (*digits)(const int32_t* q, const int32_t* parents, uint8_t* symbols);
  uint32_t (*count)(const int32_t* q, size_t count, uint32_t* counts);
  void (*errors)(const float* a, const float* b, size_t count, float* sum, float* largest);

  void (*to_f16)(const float* values, size_t count, uint16_t* halves);
  void (*to_bf16)(const float* values, size_t count, uint16_t* halves);
  void (*from_f16)(const uint16_t* halves, size_t count, float* values);
  void (*from_bf16)(const uint16_t* halves, size_t count, float* values);
};

const Kernels& kernels();
// Invalid argument if KVPACK_ISA names none that this machine can run; kernels() is the best one then.
Status check_kernel_choice();
// All that this machine can run, scalar first.
std::span<const Kernels* const> runnable_kernels();

const Kernels& scalar_kernels();
// Null where the build or the machine lacks them.
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

}  // namespace kvpack
