// SPDX-License-Identifier: Apache-2.0
#include "net/s3_multipart.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "formats/checksum.h"
#include "net/push_state.h"
#include "net/range_response.h"
#include "net/s3_signature.h"
#include "net/url.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxParts = 10'000;
constexpr uint64_t kPartGranuleBytes = 1 << 20;

uint64_t part_bytes_for(uint64_t file_bytes, uint64_t wanted) {
  const uint64_t needed = (file_bytes + kMaxParts - 1) / kMaxParts;
  const uint64_t rounded = (needed + kPartGranuleBytes - 1) / kPartGranuleBytes * kPartGranuleBytes;
  return std::max(wanted, rounded);
}

// One upload from start or resumption to completion.
class MultipartUpload {
 public:
  MultipartUpload(ByteSource& file, HttpClient& client, const S3Location& location, const PushOptions& options,
                  PushState state, std::string state_path)
      : file_(file),
        client_(client),
        location_(location),
        options_(options),
        state_(std::move(state)),
        state_path_(std::move(state_path)) {}

  Status begin();
  Status send_parts();
  Status complete();
  bool is_gone() const { return gone_; }  // the server no longer knows the upload
  const PushReport& report() const { return report_; }

 private:
  struct Part {
    uint32_t number = 0;
    Bytes bytes;
    std::string sha256;
    RetrySchedule schedule;
  };
  uint32_t parts() const { return static_cast<uint32_t>((file_.size() + state_.part_bytes - 1) / state_.part_bytes); }
  std::string url(const std::string& query) const { return location_.url + "?" + query; }
  std::string upload_query() const { return "uploadId=" + percent_encode(state_.upload_id); }
  HttpRequest request(const std::string& method, const std::string& query, ByteSpan body) const;
  Status start_next_parts();
  void start_part(std::shared_ptr<Part> part, NetTime not_before);
  void end_part(const std::shared_ptr<Part>& part, const HttpResult& result, const std::string& body);
  Status refusal(const HttpResponse& response);

  ByteSource& file_;
  HttpClient& client_;
  const S3Location& location_;
  const PushOptions& options_;
  PushState state_;
  std::string state_path_;
  PushReport report_;
  bool gone_ = false;
  uint32_t next_part_ = 1;
  uint32_t in_flight_ = 0;
  uint64_t done_bytes_ = 0;
  Status failure_;
  std::random_device seed_;
};

HttpRequest MultipartUpload::request(const std::string& method, const std::string& query, ByteSpan body) const {
  HttpRequest request;
  request.method = method;
  request.url = url(query);
  request.body = body;
  request.has_body = true;
  request.authorize = s3_authorizer(method, location_, sha256_hex(body));
  return request;
}

Status MultipartUpload::refusal(const HttpResponse& response) {
  gone_ = gone_ || xml_text(response.body, "Code") == "NoSuchUpload";
  return network_error(s3_error_text(response));
}

Status MultipartUpload::begin() {
  if (!state_.upload_id.empty()) return {};
  KVPACK_ASSIGN_OR_RETURN(const HttpResponse response,
                          exchange_with_retries(client_, request("POST", "uploads=", {}), options_.net.retry));
  if (response.head.status != 200) return refusal(response);
  state_.upload_id = xml_text(response.body, "UploadId");
  if (state_.upload_id.empty()) return network_error("the S3 server began an upload without an UploadId");
  return write_push_state(state_path_, state_);
}

Status MultipartUpload::send_parts() {
  report_.parts = parts();
  report_.resumed_parts = static_cast<uint32_t>(state_.part_etags.size());
  for (const auto& [number, etag] : state_.part_etags) {
    done_bytes_ += std::min(state_.part_bytes, file_.size() - (number - 1) * state_.part_bytes);
  }
  do {
    KVPACK_RETURN_IF_ERROR(start_next_parts());
    client_.poll(kNever);
  } while (failure_.ok() && (in_flight_ > 0 || next_part_ <= parts()));
  return failure_;
}

Status MultipartUpload::start_next_parts() {
  for (; in_flight_ < options_.parts_in_flight && next_part_ <= parts(); ++next_part_) {
    if (state_.part_etags.contains(next_part_)) continue;
    const uint64_t offset = uint64_t{next_part_ - 1} * state_.part_bytes;
    KVPACK_ASSIGN_OR_RETURN(Bytes bytes, file_.read(offset, std::min(state_.part_bytes, file_.size() - offset)));
    std::string sha256 = sha256_hex(bytes);
    const RetrySchedule schedule(options_.net.retry, bytes.size(), NetClock::now(), kNever, seed_());
    ++in_flight_;
    start_part(std::make_shared<Part>(Part{next_part_, std::move(bytes), std::move(sha256), schedule}), NetTime{});
  }
  return {};
}

void MultipartUpload::start_part(std::shared_ptr<Part> part, NetTime not_before) {
  HttpRequest put;
  put.method = "PUT";
  put.url = url(fmt::format("partNumber={}&{}", part->number, upload_query()));
  put.body = part->bytes;
  put.has_body = true;
  put.authorize = s3_authorizer("PUT", location_, part->sha256);
  put.not_before = not_before;
  put.deadline = part->schedule.give_up_at();
  const auto body = std::make_shared<std::string>();
  put.on_body = [body](ByteSpan bytes) -> Status {
    constexpr size_t kMaxAnswerBytes = 64 * 1024;
    if (body->size() + bytes.size() > kMaxAnswerBytes) return network_error("an endless answer to a part");
    *body += as_text(bytes);
    return {};
  };
  put.on_done = [this, part, body](const HttpResult& result) { end_part(part, result, *body); };
  client_.start(std::move(put));
}

void MultipartUpload::end_part(const std::shared_ptr<Part>& part, const HttpResult& result, const std::string& body) {
  const bool lost = result.failure == HttpFailure::kConnection || result.failure == HttpFailure::kStalled;
  const bool later = result.status.ok() && is_retryable_status(result.head.status);
  if (lost || later) {
    const auto after = result.head.field("retry-after");
    const auto wait = later && after ? parse_retry_after(*after, std::time(nullptr)) : std::nullopt;
    if (const auto at = part->schedule.next(NetClock::now(), false, wait)) return start_part(part, *at);
  }
  --in_flight_;
  Status status = result.status;
  const auto etag = result.head.field("etag");
  if (status.ok() && result.head.status != 200) {
    status = refusal({result.head, body});
  } else if (status.ok() && (!etag || etag->find_first_of("<>&") != std::string_view::npos)) {
    status = network_error(fmt::format("the S3 server took part {} without an ETag", part->number));
  }
  if (status.ok()) {
    state_.part_etags[part->number] = *etag;
    report_.sent_bytes += part->bytes.size();
    done_bytes_ += part->bytes.size();
    if (options_.progress) options_.progress(done_bytes_, file_.size());
    status = write_push_state(state_path_, state_);
  }
  if (failure_.ok()) failure_ = status;
}

Status MultipartUpload::complete() {
  std::string list = "<CompleteMultipartUpload>";
  for (const auto& [number, etag] : state_.part_etags) {
    list += fmt::format("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", number, etag);
  }
  list += "</CompleteMultipartUpload>";
  KVPACK_ASSIGN_OR_RETURN(
      const HttpResponse response,
      exchange_with_retries(client_, request("POST", upload_query(), as_byte_span(list)), options_.net.retry));
  // S3 sends its 200 before it knows how the assembly ends.
  const bool assembled = response.body.find("<CompleteMultipartUploadResult") != std::string::npos;
  if (response.head.status != 200 || !assembled) return refusal(response);
  ::unlink(state_path_.c_str());
  return {};
}

}  // namespace

std::string xml_text(std::string_view xml, std::string_view name) {
  const std::string open = fmt::format("<{}>", name);
  const size_t start = xml.find(open);
  if (start == std::string_view::npos) return "";
  const std::string_view rest = xml.substr(start + open.size());
  std::string text;
  for (size_t i = 0; i < rest.size() && rest[i] != '<'; ++i) {
    constexpr std::pair<std::string_view, char> kEntities[] = {{"&amp;", '&'},  {"&lt;", '<'},    {"&gt;", '>'},
                                                               {"&quot;", '"'}, {"&apos;", '\''}, {"&#34;", '"'},
                                                               {"&#39;", '\''}};
    const auto* entity = std::find_if(std::begin(kEntities), std::end(kEntities), [&](const auto& candidate) {
      return rest.substr(i, candidate.first.size()) == candidate.first;
    });
    const bool is_entity = entity != std::end(kEntities);
    text += is_entity ? entity->second : rest[i];
    if (is_entity) i += entity->first.size() - 1;
  }
  return text;
}

std::string s3_error_text(const HttpResponse& response) {
  std::string text = "the server says " + status_text(response.head);
  for (const char* name : {"Code", "Message"}) {
    const std::string detail = xml_text(response.body, name);
    if (!detail.empty()) text += ": " + detail;
  }
  return text;
}

Result<HttpResponse> exchange_with_retries(HttpClient& client, const HttpRequest& request,
                                           const RetryOptions& options) {
  RetrySchedule schedule(options, std::max<uint64_t>(request.body.size(), request.body_bytes), NetClock::now(),
                         request.deadline, std::random_device()());
  HttpRequest attempt = request;
  attempt.deadline = schedule.give_up_at();
  for (;;) {
    HttpFailure failure = HttpFailure::kNone;
    attempt.on_done = [&failure](const HttpResult& result) { failure = result.failure; };
    Result<HttpResponse> response = exchange(client, attempt);
    const bool lost = failure == HttpFailure::kConnection || failure == HttpFailure::kStalled;
    const bool later = response.ok() && is_retryable_status(response->head.status);
    if (!lost && !later) return response;
    const auto after = later ? response->head.field("retry-after") : std::nullopt;
    const auto at =
        schedule.next(NetClock::now(), false, after ? parse_retry_after(*after, std::time(nullptr)) : std::nullopt);
    if (!at) return response;
    attempt.not_before = *at;
  }
}

Result<PushReport> push_in_parts(ByteSource& file, const std::string& archive_id, HttpClient& client,
                                 const S3Location& location, const PushOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(const std::string state_path, push_state_path(options.state_folder, location.url));
  PushState fresh;
  fresh.url = location.url;
  fresh.archive_id = archive_id;
  fresh.file_bytes = file.size();
  fresh.part_bytes = part_bytes_for(file.size(), options.part_bytes);
  const auto kept = read_push_state(state_path);
  const bool resumes = kept && kept->same_upload(fresh);
  for (bool resuming : {resumes, false}) {
    MultipartUpload upload(file, client, location, options, resuming ? *kept : fresh, state_path);
    Status status = upload.begin();
    if (status.ok()) status = upload.send_parts();
    if (status.ok()) status = upload.complete();
    if (status.ok()) return upload.report();
    if (!resuming || !upload.is_gone()) return status.error();
  }
  return network_error("unreachable");
}

}  // namespace kvpack
