// SPDX-License-Identifier: Apache-2.0
// Lossless: zstd at level 19 on every plane's stored bytes, as they are and with the elements' bytes shuffled apart
// (all first bytes, then all second ones; Blosc's filter). What a real zstd gives.
#include <zstd.h>

#include <atomic>
#include <cstring>

#include "codec/parallel.h"
#include "codec/presets/preset_planes.h"

namespace kvpack {
namespace {

constexpr int kLevel = 19;

Bytes shuffled(const Bytes& bytes, size_t element) {
  Bytes out(bytes.size());
  const size_t count = bytes.size() / element;
  for (size_t i = 0; i < count; ++i) {
    for (size_t b = 0; b < element; ++b) out[b * count + i] = bytes[i * element + b];
  }
  return out;
}

// Never above the plane's own bytes: an incompressible one is kept.
uint64_t compressed_bytes(const KvView& view, bool shuffle) {
  Bytes raw(view.packed_row_bytes() * view.tokens);
  load_raw(view, 0, view.tokens, raw.data());
  if (shuffle && !dtype_is_quantized(view.dtype)) raw = shuffled(raw, dtype_block_bytes(view.dtype));
  Bytes out(ZSTD_compressBound(raw.size()));
  const size_t size = ZSTD_compress(out.data(), out.size(), raw.data(), raw.size(), kLevel);
  return ZSTD_isError(size) != 0 ? raw.size() : std::min<uint64_t>(size, raw.size());
}

Result<PresetResult> run(const PresetInput& input, bool shuffle) {
  PresetResult result;
  result.tensor = input.file.tensor;
  std::atomic<uint64_t> bytes{0};
  parallel_for(result.tensor.planes.size(), input.threads,
               [&](uint64_t p) { bytes += compressed_bytes(result.tensor.planes[p].view, shuffle); });
  result.bytes = bytes;
  return result;
}

}  // namespace

void add_zstd(std::vector<Preset>& all) {
  all.push_back({"zstd-19", "zstd", "lossless", [](const PresetInput& input) { return run(input, false); }});
  all.push_back({"zstd-19-shuffled", "zstd", "lossless, bytes shuffled",
                 [](const PresetInput& input) { return run(input, true); }});
}

}  // namespace kvpack
