// SPDX-License-Identifier: Apache-2.0
// KvFile -> archive -> file or tensor, with every step's success taken for granted.
#pragma once

#include "codec/archive_codec.h"
#include "formats/byte_io.h"
#include "tests/must.h"

namespace kvpack::test {

inline Bytes pack(const KvFile& file, const ModelFacts* facts, Quality quality) {
  EncodeOptions options;
  options.quality = quality;
  MemorySink sink;
  must(encode_archive(file, facts, options, sink));
  return sink.take();
}

inline Bytes restore(const Bytes& archive, const DecodeOptions& options = {}) {
  MemorySource source(archive);
  const ArchiveReader reader = must(ArchiveReader::open(source));
  return must(restore_file(reader, options));
}

inline KvTensor unpack(const Bytes& archive, const DecodeOptions& options = {},
                       std::vector<int32_t>* tokens = nullptr) {
  MemorySource source(archive);
  const ArchiveReader reader = must(ArchiveReader::open(source));
  return must(decode_tensor(reader, options, tokens));
}

}  // namespace kvpack::test
