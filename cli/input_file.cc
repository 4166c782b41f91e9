// SPDX-License-Identifier: Apache-2.0
#include "cli/input_file.h"

#include <unistd.h>

#include "cli/console.h"
#include "cli/net_options.h"
#include "net/url.h"

namespace kvpack::cli {

namespace {

Status check_not_terminal(const std::string& path) {
  if (path != "-" || ::isatty(STDIN_FILENO) == 0) return {};
  return with_hint(invalid_argument("standard input is a terminal"), "name a file, or pipe one in");
}

}  // namespace

Result<Bytes> read_input(const std::string& path, uint64_t limit_bytes) {
  KVPACK_RETURN_IF_ERROR(check_not_terminal(path));
  auto bytes = read_whole_file(path, limit_bytes);
  return bytes.ok() ? std::move(bytes) : about_file(bytes.error(), path);
}

Result<ModelFacts> read_model(const std::string& path) {
  auto facts = read_model_facts(path);
  return facts.ok() ? std::move(facts) : about_file(facts.error(), path);
}

Result<KvFile> read_kv_input(const std::string& path, const ModelFacts* facts, bool hadamard_rotated) {
  KVPACK_RETURN_IF_ERROR(check_not_terminal(path));
  auto bytes = FileBytes::open(path);
  if (!bytes.ok()) return about_file(bytes.error(), path);
  if (looks_like_archive(**bytes)) {
    return with_hint(invalid_argument(path + ": is a .kvp archive already"), "kvpack decode turns it back");
  }
  KvReadOptions options;
  options.facts = facts;
  options.hadamard_rotated = hadamard_rotated;
  auto file = read_kv_file(std::move(*bytes), options);
  return file.ok() ? std::move(file) : about_file(file.error(), path);
}

Result<std::unique_ptr<ArchiveInput>> ArchiveInput::open(const std::string& path, const RangeSourceOptions& options) {
  auto input = std::make_unique<ArchiveInput>();
  if (path == "-") {
    KVPACK_RETURN_IF_ERROR(check_not_terminal(path));
    KVPACK_ASSIGN_OR_RETURN(auto bytes, FileBytes::open(path));
    input->source_ = std::make_unique<FileBytesSource>(std::move(bytes), "standard input");
  } else if (is_http_url(path) || is_s3_url(path) || is_file_url(path)) {
    KVPACK_ASSIGN_OR_RETURN(input->remote_, open_range_source(path, options));
    auto ahead = std::make_unique<ReadAheadSource>(*input->remote_);
    input->ahead_ = ahead.get();
    input->source_ = std::move(ahead);
  } else {
    auto source = open_file_source(path);
    if (!source.ok()) return about_file(source.error(), path);
    input->source_ = std::move(source).value();
  }
  auto reader = ArchiveReader::open(*input->source_);
  if (!reader.ok()) return about_file(reader.error(), path);
  input->reader_ = std::make_unique<ArchiveReader>(std::move(reader).value());
  return input;
}

void ArchiveInput::read_ahead_to_decode(uint32_t levels) {
  if (ahead_ != nullptr) ahead_->begin(ranges_in_decoding_order(reader_->directory(), levels), false);
}

void ArchiveInput::read_ahead_all() {
  if (ahead_ != nullptr) ahead_->begin(ranges_in_file_order(remote_->head().size(), remote_->size()), true);
}

Result<std::unique_ptr<ArchiveInput>> ArchiveInput::open(const std::string& path) {
  KVPACK_ASSIGN_OR_RETURN(const RangeSourceOptions options, net_options({}));
  return open(path, options);
}

bool looks_like_archive(ByteSpan head) { return head.size() >= 4 && as_text(head.first(4)) == "\x8bKVP"; }

}  // namespace kvpack::cli
