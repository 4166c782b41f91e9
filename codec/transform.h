// SPDX-License-Identifier: Apache-2.0
// The transform of one head: values [head_dim] -> components [components], and back.
//
//   none      the components are the channels
//   hadamard  orthonormal Sylvester-Hadamard matrix in blocks (QuaRot, arXiv 2404.00456): spreads outliers, costs no
//   bytes matrix    rows of its own: the KLT of the context, or a profile's sensitivity-weighted basis. Decoding is
//             x = sum_k component[k] * row[k]; rows are int8 times one f32 scale each, rounded to i16 of one unit.
//             Components left out are zero.
//
// The forward direction of a matrix is its pseudo-inverse: rounding the rows costs no accuracy while all are kept.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/result.h"

namespace kvpack {

// kMatrix: rows stored with the plane; kProfile: the first rows of the profile's basis.
enum class TransformKind : uint8_t { kNone = 0, kHadamard = 1, kMatrix = 2, kProfile = 3 };
inline bool has_matrix(TransformKind kind) { return kind == TransformKind::kMatrix || kind == TransformKind::kProfile; }
std::string_view transform_kind_name(TransformKind kind);

// Stored rows of one head's matrix.
struct HeadMatrix {
  uint32_t components = 0;
  std::vector<float> scale;  // [component]
  std::vector<int8_t> rows;  // [component][head_dim]
  bool operator==(const HeadMatrix&) const = default;
};

// Rounds f32 rows [component][head_dim] to int8 with one scale per row: -127..127, or -largest[component]..
HeadMatrix quantize_matrix(std::span<const float> rows, uint32_t components, uint32_t head_dim,
                           std::span<const int8_t> largest = {});
// The rows as f32.
std::vector<float> matrix_rows(const HeadMatrix& matrix, uint32_t head_dim);

// A matrix as decoding sums it: integers, so that every order of summing gives the same bits, w = rows x scale / unit
// rounded to nearest even. They go in pairs of components.
struct PairedWeights {
  float unit = 1;              // weight_unit of the matrix
  std::vector<int16_t> pairs;  // [component / 2][head_dim][2], an odd last component's partner 0
};
// The largest scale / 256; 1 without components.
float weight_unit(const HeadMatrix& matrix);
// `unit`: the matrix's own, or that of the basis whose first rows it is.
PairedWeights paired_weights(const HeadMatrix& matrix, uint32_t head_dim, float unit);

// Largest power of two that divides head_dim: the Hadamard block.
uint32_t hadamard_block_of(uint32_t head_dim);

// Values to components: the encoder's side. A matrix is inverted with all of its rows.
class ForwardTransform {
 public:
  // `unit`: of the weights that are inverted; the matrix's own unless given.
  ForwardTransform(TransformKind kind, uint32_t head_dim, const HeadMatrix* matrix, std::optional<float> unit = {});
  // The first components alone: the rows of a profile are not orthogonal, and dropping some must not change the
  // others' values.
  ForwardTransform first_components(uint32_t count) const;
  uint32_t components() const { return components_; }
  // The largest change of the components, as a vector, that a change of 1 in one value makes. A matrix only.
  float largest_gain() const;
  void apply(const float* values, float* components) const;
  // The same for 32 tokens: values [head_dim][32], which are used up, to components [components, padded to 32][32].
  void apply_to_group(float* values, float* components) const;

 private:
  TransformKind kind_;
  uint32_t head_dim_;
  uint32_t components_;
  uint32_t block_;
  std::vector<float> columns_;  // [head_dim][component]
  std::vector<float> blocks_;   // [block of 32 components][head_dim][32], zero beyond the last
};

}  // namespace kvpack
