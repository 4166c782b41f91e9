// SPDX-License-Identifier: Apache-2.0
// What all tiles of one plane share: coding, steps, mean, transform, reference classes. Stored once per archive (or in
// a frame), so that a tile is small and decodes alone with them.
//
//   u8 coding                0 lossless (nothing follows), 1 quantized
//   u8 levels                1..8
//   u8 transform             TransformKind
//   u8 low_rank              0..32
//   i8 mean_exponent
//   varint scale_offset      0..138
//   f32 step[kv_heads]       level 0's step
//   matrix only, per head:   varint components, f32 scale[components], i8 rows[components][head_dim]
//   profile only, per head:  varint components, the first ones of the profile's basis
//   signed varint mean[], in units of step[head] x 2^mean_exponent: [channel], or with a profile [kv_head][component]
//   of
//                            what the mean has beside the profile's
//   u8 class[kv_heads][components]
#pragma once

#include <cstdint>
#include <vector>

#include "codec/profile.h"
#include "codec/transform.h"
#include "formats/archive.h"
#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint32_t kMaxLowRank = 32;
// Bounds the depth at 12 digits, so that with all levels a quantized value fits 32 bits.
inline constexpr int kMaxScaleOffset = 138;

struct PlaneParameters {
  bool lossless = false;
  uint32_t levels = 1;
  TransformKind transform = TransformKind::kNone;
  uint32_t low_rank = 0;
  int mean_exponent = 0;
  int scale_offset = 0;
  std::vector<float> step;                    // [kv_head]
  std::vector<int32_t> mean;                  // see above
  std::vector<HeadMatrix> matrices;           // [kv_head], transforms with a matrix only
  std::vector<PairedWeights> weights;         // [kv_head] of the matrices; made by resolve_weights
  std::vector<float> mean_values;             // [channel] that both sides subtract and add; made by resolve_mean
  std::vector<std::vector<uint8_t>> classes;  // [kv_head][component]

  uint32_t components(uint32_t head, uint32_t head_dim) const {
    return has_matrix(transform) ? matrices[head].components : head_dim;
  }
  const HeadMatrix* matrix(uint32_t head) const { return has_matrix(transform) ? &matrices[head] : nullptr; }
};

HeadMatrix first_components(const HeadMatrix& matrix, uint32_t components, uint32_t head_dim);

// Makes mean_values. `profile` is the plane's; null unless the transform is the profile's. Error: corrupt if a mean is
// not finite.
Status resolve_mean(PlaneParameters& parameters, const PlaneShape& shape, const ProfilePlane* profile);

// Makes weights. `profile` as above. Error: corrupt if a step times a weight's unit is beyond 1e-30..1e30.
Status resolve_weights(PlaneParameters& parameters, const PlaneShape& shape, const ProfilePlane* profile);

void write_plane_parameters(const PlaneParameters& parameters, ByteWriter& out);
// `bytes` must be used up exactly. `profile` may be null if the plane does not use one; mean and weights are resolved.
// Errors: corrupt, truncated, unsupported (a profile is needed).
Result<PlaneParameters> read_plane_parameters(ByteSpan bytes, const PlaneShape& shape, const ProfilePlane* profile);

}  // namespace kvpack
