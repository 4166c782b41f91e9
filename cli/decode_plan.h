// SPDX-License-Identifier: Apache-2.0
// What `decode` is going to do, settled from the arguments and the archive's identity before any value is decoded.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/decode.h"
#include "cli/output_file.h"
#include "codec/archive_codec.h"

namespace kvpack::cli {

struct DecodePlan {
  bool restores_source = false;  // the source file again, by restore_file(); otherwise values through a writer
  KvFileFormat format = KvFileFormat::kLlamaState;
  DecodeOptions options;
  LlamaLayout layout;
  std::optional<DType> dtype;  // of safetensors and npy
  std::vector<std::string> notes;
};

// Errors: invalid_argument for options that contradict each other or the archive.
Result<DecodePlan> plan_decode(const DecodeArguments& arguments, const ArchiveReader& reader,
                               const ArchiveIdentity& identity);

// The KV file that the plan describes.
Result<Bytes> decode_file(const ArchiveReader& reader, const ArchiveIdentity& identity, const DecodePlan& plan);
// The same into `output`, which is not committed; the file's bytes. A source restored to a file is written as it is
// decoded; anything else is made in memory first.
Result<uint64_t> decode_file(const ArchiveReader& reader, const ArchiveIdentity& identity, const DecodePlan& plan,
                             OutputFile& output);

}  // namespace kvpack::cli
