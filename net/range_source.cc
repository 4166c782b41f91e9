// SPDX-License-Identifier: Apache-2.0
#include "net/range_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "net/file_range_source.h"
#include "net/http_range_source.h"
#include "net/s3_signature.h"
#include "net/url.h"

namespace kvpack {
namespace {

// file:///path, file://localhost/path, percent-encoded.
Result<std::string> path_of_file_url(const std::string& location) {
  std::string_view rest = std::string_view(location).substr(7);
  if (rest.substr(0, 10) == "localhost/") rest.remove_prefix(9);
  if (rest.empty() || rest.front() != '/') {
    return invalid_argument(fmt::format("{}: no local file, expected file:///path", location));
  }
  const auto path = percent_decode(rest);
  if (!path || path->find('\0') != std::string::npos) {
    return invalid_argument(fmt::format("{}: bad percent-encoding", location));
  }
  return *path;
}

}  // namespace

Result<std::unique_ptr<RangeSource>> open_range_source(const std::string& location, const RangeSourceOptions& options) {
  if (is_http_url(location)) {
    KVPACK_ASSIGN_OR_RETURN(auto source, HttpRangeSource::open(location, options, {}));
    return std::unique_ptr<RangeSource>(std::move(source));
  }
  if (is_s3_url(location)) {
    KVPACK_ASSIGN_OR_RETURN(const S3Location s3, resolve_s3(location, options.s3));
    KVPACK_ASSIGN_OR_RETURN(auto source,
                            HttpRangeSource::open(s3.url, options, s3_authorizer("GET", s3, kEmptySha256)));
    return std::unique_ptr<RangeSource>(std::move(source));
  }
  std::string path = location;
  if (is_file_url(location)) {
    KVPACK_ASSIGN_OR_RETURN(path, path_of_file_url(location));
  }
  KVPACK_ASSIGN_OR_RETURN(auto source, FileRangeSource::open(path, options));
  return std::unique_ptr<RangeSource>(std::move(source));
}

Result<Bytes> RangeByteSource::read(uint64_t offset, uint64_t count) {
  if (offset > size() || count > size() - offset) {
    return truncated(fmt::format("{}: {} bytes at offset {} asked for, it has {}", name(), count, offset, size()));
  }
  const ByteSpan head = source_.head();
  if (offset + count <= head.size()) {
    const ByteSpan view = head.subspan(offset, count);
    return Bytes(view.begin(), view.end());
  }
  Bytes bytes;
  bytes.reserve(std::min<uint64_t>(count, 1 << 24));  // beyond that, only what has come
  std::optional<RangeOutcome> ended;
  RangeRequest request;
  request.range = {offset, count};
  request.deadline = deadline_;
  request.on_bytes = [&bytes](ByteSpan part) -> Status {
    bytes.insert(bytes.end(), part.begin(), part.end());
    return {};
  };
  request.on_done = [&ended](const RangeOutcome& outcome) { ended = outcome; };
  source_.start(std::move(request));
  while (!ended) source_.poll(kNever);
  replaced_ = replaced_ || ended->replaced;
  KVPACK_RETURN_IF_ERROR(ended->status);
  return bytes;
}

}  // namespace kvpack
