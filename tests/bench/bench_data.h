// SPDX-License-Identifier: Apache-2.0
// What the benchmarks run on: the SmolLM2 sample's planes, quantized without transform at a given step, so that every
// coder sees the same symbols.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "codec/plane_parameters.h"
#include "codec/profile.h"
#include "codec/tile.h"
#include "formats/kv_file.h"

namespace kvpack::bench {

// A benchmark's input is ours: an error is a bug here.
inline void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.error().message.c_str());
  std::abort();
}
template <typename T>
T require(Result<T> result) {
  if (!result.ok()) require(Status(result.error()));
  return std::move(result).value();
}

// samples/smollm2-harbour.slot.bin, or the larger SmolLM2 state that KVPACK_BENCH_STATE names.
std::string sample_path();
const KvFile& sample_file();
const ModelFacts& sample_facts();  // samples/smollm2-135m.model.json
const Profile& sample_profile();   // samples/profiles/smollm2-135m.kvprofile

// The sample's values as bf16 or f16, [plane][token][channel].
const std::vector<Bytes>& sample_rows(DType dtype);

// All planes as tiles of one level, 224 tokens each (whole groups), channels as components.
struct TileSet {
  std::vector<PlaneShape> shapes;
  std::vector<PlaneParameters> parameters;
  std::vector<int32_t> positions;
  std::vector<Bytes> tiles;
  std::vector<uint8_t> symbols;  // q + 7, escapes 15: [plane][component][token]
  uint64_t values = 0;
  uint64_t coded_bytes = 0;  // all of the tiles
  uint64_t class_bytes = 0;  // of them, classes
  double entropy_bytes = 0;  // per channel, order 0, of the quantized values: the least that the streams can have

  double bits_per_value() const { return 8.0 * static_cast<double>(coded_bytes) / static_cast<double>(values); }
};
// `step` in standard deviations of a head.
const TileSet& tile_set(double step);

}  // namespace kvpack::bench
