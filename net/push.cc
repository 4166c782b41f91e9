// SPDX-License-Identifier: Apache-2.0
#include "net/push.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/archive.h"
#include "net/range_response.h"
#include "net/s3_multipart.h"
#include "net/s3_signature.h"
#include "net/url.h"

namespace kvpack {
namespace {

// Where the archive goes, and what signs requests for it.
struct Target {
  std::string url;
  bool is_s3 = false;
  S3Location s3;

  std::function<Status(const std::string&, std::vector<std::string>&)> authorizer(const std::string& method,
                                                                                  const std::string& payload) const {
    if (!is_s3) return {};
    return s3_authorizer(method, s3, payload);
  }
};

Result<Target> resolve_target(const std::string& url, const PushOptions& options) {
  Target target;
  target.is_s3 = is_s3_url(url);
  target.url = url;
  if (target.is_s3) {
    KVPACK_ASSIGN_OR_RETURN(target.s3, resolve_s3(url, options.net.s3));
    target.url = target.s3.url;
  } else if (!is_http_url(url)) {
    return invalid_argument(fmt::format("{}: expected an http://, https:// or s3:// URL", url));
  }
  return target;
}

enum class Found { kNothing, kSame, kOther };

// One request: the first bytes of what is there, and its size.
Result<Found> look(HttpClient& client, const Target& target, ByteSpan head, uint64_t file_bytes,
                   const RetryOptions& retry) {
  HttpRequest request;
  request.url = target.url;
  request.headers = {"Range: " + range_header(0, head.size())};
  request.authorize = target.authorizer("GET", kEmptySha256);
  // A 200 may have a body of any length: no byte of it is wanted.
  request.on_head = [](const HttpHead& found) -> Status {
    return found.status == 200 ? invalid_argument("whole") : Status();
  };
  const auto response = exchange_with_retries(client, request, retry);
  if (!response.ok()) {
    if (response.error().kind == ErrorKind::kInvalidArgument) return Found::kOther;
    return response.error();
  }
  const int status = response->head.status;
  if (status == 206) {
    const auto range = parse_content_range(response->head.field("content-range").value_or(""));
    const bool same = range && range->total == file_bytes && response->body == as_text(head);
    return same ? Found::kSame : Found::kOther;
  }
  if (status == 416) return Found::kOther;  // something empty
  // S3 says 403 for what is not there to those who may not list the bucket; the PUT will tell.
  if (status == 404 || status == 410 || (status == 403 && target.is_s3)) return Found::kNothing;
  return network_error(s3_error_text(*response));
}

Result<PushReport> put_whole(ByteSource& file, HttpClient& client, const Target& target, const PushOptions& options) {
  PushReport report;
  HttpRequest request;
  request.method = "PUT";
  request.url = target.url;
  request.headers = {"Content-Type: application/octet-stream"};
  request.has_body = true;
  request.body_bytes = file.size();
  request.read_body = [&](uint64_t offset, MutableByteSpan out) -> Status {
    KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, file.read(offset, out.size()));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    report.sent_bytes += bytes.size();
    if (options.progress) options.progress(offset + bytes.size(), file.size());
    return {};
  };
  if (target.is_s3) {  // at most one part long
    KVPACK_ASSIGN_OR_RETURN(const Bytes all, file.read(0, file.size()));
    request.authorize = target.authorizer("PUT", sha256_hex(all));
  }
  KVPACK_ASSIGN_OR_RETURN(const HttpResponse response, exchange_with_retries(client, request, options.net.retry));
  if (response.head.status < 200 || response.head.status > 299) return network_error(s3_error_text(response));
  return report;
}

Result<PushReport> push_to(const Target& target, ByteSource& file, const ArchiveReader& reader,
                           const PushOptions& options) {
  HttpOptions http = options.net.http;
  http.stall_s = std::max(http.stall_s, 120.0);  // a server may think for long after the last byte
  KVPACK_ASSIGN_OR_RETURN(const auto client, HttpClient::create(http));
  KVPACK_ASSIGN_OR_RETURN(const Bytes head, file.read(0, std::min(file.size(), kOpeningBytes)));
  PushReport report;
  KVPACK_ASSIGN_OR_RETURN(const Found found, look(*client, target, head, file.size(), options.net.retry));
  if (found == Found::kSame) {
    report.already_there = true;
  } else if (found == Found::kOther && !options.overwrite) {
    return invalid_argument("something else is there already");
  } else {
    const bool in_parts = target.is_s3 && file.size() > options.part_bytes;
    KVPACK_ASSIGN_OR_RETURN(report, in_parts ? push_in_parts(file, reader.archive_id(), *client, target.s3, options)
                                             : put_whole(file, *client, target, options));
    // A success that stored something else, or nothing, is none.
    KVPACK_ASSIGN_OR_RETURN(const Found stored, look(*client, target, head, file.size(), options.net.retry));
    if (stored != Found::kSame) return network_error("the server took the archive, but does not give it back");
  }
  report.archive_bytes = file.size();
  return report;
}

}  // namespace

std::string push_target(const std::string& path, const std::string& url) {
  if (!url.ends_with('/')) return url;
  const std::string name = path.substr(path.rfind('/') + 1);
  return url + (is_s3_url(url) ? name : percent_encode(name));
}

Result<PushReport> push_archive(const std::string& path, const std::string& url, const PushOptions& options) {
  const std::string full_url = push_target(path, url);
  KVPACK_ASSIGN_OR_RETURN(const Target target, resolve_target(full_url, options));
  KVPACK_ASSIGN_OR_RETURN(const auto file, open_file_source(path));
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(*file));
  auto report = push_to(target, *file, reader, options);
  if (!report.ok()) return report.error().within(printable_url(full_url));
  return report;
}

}  // namespace kvpack
