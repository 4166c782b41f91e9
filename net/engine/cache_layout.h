// SPDX-License-Identifier: Apache-2.0
// How a llama.cpp engine lays its cache out, learned from a state file that it saved, and what has to become of a
// context's own layout so that the engine takes it. An engine compares neither: a file that does not fit costs it its
// cache, or its life.
#pragma once

#include <optional>
#include <vector>

#include "formats/archive.h"
#include "formats/kv_file.h"
#include "formats/llama_state.h"

namespace kvpack {

struct CacheLayout {
  bool from_llama = false;  // only then mean the fields about streams, V and blocks something
  uint32_t streams = 1;
  uint32_t stream = 0;  // the one that holds the cells
  bool transposed_v = false;
  std::vector<LlamaBlockShape> blocks;
  std::vector<PlaneShape> planes;  // token_set, side, channels and dtype count here
};

// Of a state that an engine saved. Error: unsupported for another format, invalid_argument if it holds no cells.
Result<CacheLayout> cache_layout_of(const KvFile& state);
CacheLayout cache_layout_of(const KvTensor& tensor);  // of no file yet
// Of an archive. Errors: invalid_argument if it holds several sequences; those of reading its container.
Result<CacheLayout> cache_layout_of(const ArchiveReader& reader, KvFileFormat source_format);

// What decoding must change. Streams and the layout of V cost nothing; another cache type is allowed only with
// `requantize` (or for a context that never had one: safetensors, npy). Errors: invalid_argument, which names both.
Result<LlamaLayout> layout_for_engine(const CacheLayout& context, const CacheLayout& engine, bool requantize);

}  // namespace kvpack
