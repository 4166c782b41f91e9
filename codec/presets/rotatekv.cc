// SPDX-License-Identifier: Apache-2.0
// RotateKV (Su et al., IJCAI 2025, arXiv 2501.16383): keys before RoPE, heads grouped, their
// channels reordered so that every Hadamard block gets its share of the outlying ones, rotated, quantized per token in
// groups; values likewise without the reordering; attention sinks, told by massive activations, exact. The paper groups
// four heads and orders channels on calibration data; here the order comes from the values themselves and is counted.
//
// Bytes: b bits a value, two f16 a group of 128, 16 bits a channel of K for the order, sinks in f16 with a 32-bit
// index.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/outliers.h"
#include "codec/plane_statistics.h"
#include "codec/presets/group_quantizer.h"
#include "codec/presets/preset_planes.h"
#include "formats/ggml_blocks.h"

namespace kvpack {
namespace {

constexpr uint32_t kGroup = 128;
constexpr uint32_t kHeadsTogether = 4;

// Where channel c goes: by falling largest magnitude, dealt to the Hadamard blocks in turn.
std::vector<uint32_t> dealt_order(const PresetPlane& plane, uint32_t block) {
  const uint32_t channels = plane.channels();
  std::vector<float> largest(channels);
  for (size_t i = 0; i < plane.rows.size(); ++i) {
    largest[i % channels] = std::max(largest[i % channels], std::fabs(plane.rows[i]));
  }
  std::vector<uint32_t> order(channels);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return largest[a] > largest[b]; });
  const uint32_t blocks = channels / block;
  std::vector<uint32_t> place(channels);
  for (uint32_t rank = 0; rank < channels; ++rank) place[order[rank]] = rank % blocks * block + rank / blocks;
  return place;
}

// The largest power of two that divides the channels of up to four heads.
uint32_t block_of(const PresetPlane& plane) {
  const uint32_t most = plane.head_dim() * std::min(kHeadsTogether, plane.heads());
  uint32_t block = 1;
  while (plane.channels() % (block * 2) == 0 && block * 2 <= most) block *= 2;
  return block;
}

void reorder(std::vector<float>& rows, const std::vector<uint32_t>& place, bool back) {
  std::vector<float> row(place.size());
  for (size_t first = 0; first < rows.size(); first += place.size()) {
    for (size_t c = 0; c < place.size(); ++c) {
      (back ? row[c] : row[place[c]]) = rows[first + (back ? place[c] : c)];
    }
    std::copy(row.begin(), row.end(), rows.begin() + static_cast<std::ptrdiff_t>(first));
  }
}

uint64_t code_plane(PresetPlane& plane, int bits) {
  const std::vector<float> before = plane.rows;
  const uint32_t channels = plane.channels();
  const uint32_t block = block_of(plane);
  std::vector<uint32_t> place(channels);
  std::iota(place.begin(), place.end(), 0u);
  if (plane.is_key()) place = dealt_order(plane, block);
  reorder(plane.rows, place, false);
  for (uint32_t t = 0; t < plane.tokens(); ++t) rotate_hadamard(&plane.rows[size_t{t} * channels], channels, block);
  uint64_t total = quantize_along_channels(plane.rows.data(), plane.tokens(), channels, kGroup, bits);
  for (uint32_t t = 0; t < plane.tokens(); ++t) rotate_hadamard(&plane.rows[size_t{t} * channels], channels, block);
  reorder(plane.rows, place, true);
  if (plane.is_key()) total += uint64_t{channels} * 16;
  for (const uint32_t sink : find_sinks({token_norms(plane.plane->view)})) {
    for (size_t c = sink * size_t{channels}; c < (sink + size_t{1}) * channels; ++c)
      plane.rows[c] = round_to_f16(before[c]);
    total += uint64_t{channels} * 16 + 32;
  }
  return total;
}

}  // namespace

void add_rotatekv(std::vector<Preset>& all) {
  for (const int bits : {2, 3, 4}) {
    all.push_back({"rotatekv-" + std::to_string(bits), "rotatekv",
                   std::to_string(bits) + " bits after a Hadamard rotation across heads, sinks exact",
                   [bits](const PresetInput& input) {
                     return run_per_plane(input, true, [bits](PresetPlane& plane) { return code_plane(plane, bits); });
                   }});
  }
}

}  // namespace kvpack
