// SPDX-License-Identifier: Apache-2.0
// What a verb reads: a KV file, a model, an archive. Errors name the file.
#pragma once

#include <memory>
#include <string>

#include "codec/archive_codec.h"
#include "net/read_ahead.h"

namespace kvpack::cli {

// A whole file, or standard input for "-" (refused if that is a terminal).
Result<Bytes> read_input(const std::string& path, uint64_t limit_bytes = 1ull << 40);

Result<ModelFacts> read_model(const std::string& path);

// A file is mapped, not read; see FileBytes. `facts` may be null.
Result<KvFile> read_kv_input(const std::string& path, const ModelFacts* facts, bool hadamard_rotated);

// An open archive with what it reads from: a path, or an http(s)://, s3:// or file:// URL. Standard input is read
// to its end first.
class ArchiveInput {
 public:
  static Result<std::unique_ptr<ArchiveInput>> open(const std::string& path, const RangeSourceOptions& options);
  // For verbs without network options: what the environment says ($KVPACK_TOKEN, $AWS_..., netrc).
  static Result<std::unique_ptr<ArchiveInput>> open(const std::string& path);
  const ArchiveReader& reader() const { return *reader_; }
  // Of a URL: several ranges on their way from now on, in the order of a decode of all chunks up to `levels` levels, or
  // of the file, which stays in memory then and may be read twice. Nothing for what is here already. Once.
  void read_ahead_to_decode(uint32_t levels);
  void read_ahead_all();

 private:
  std::unique_ptr<RangeSource> remote_;
  ReadAheadSource* ahead_ = nullptr;  // source_, if it is remote
  std::unique_ptr<ByteSource> source_;
  std::unique_ptr<ArchiveReader> reader_;
};

// Whether a file begins like an archive.
bool looks_like_archive(ByteSpan head);

}  // namespace kvpack::cli
