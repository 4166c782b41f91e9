// SPDX-License-Identifier: Apache-2.0
#include "net/http_range_source.h"

#include <fmt/format.h>

#include "net/url.h"

namespace kvpack {
namespace {

// An attempt that delivered this much counts as progress: the backoff starts anew.
constexpr uint64_t kProgressBytes = 64 * 1024;

}  // namespace

Result<std::unique_ptr<HttpRangeSource>> HttpRangeSource::open(const std::string& url,
                                                               const RangeSourceOptions& options,
                                                               HttpAuthorize authorize) {
  KVPACK_ASSIGN_OR_RETURN(const Url parts, parse_url(url));
  std::unique_ptr<HttpRangeSource> source(new HttpRangeSource);
  KVPACK_ASSIGN_OR_RETURN(source->client_, HttpClient::create(options.http));
  source->authorize_ = std::move(authorize);
  source->retry_ = options.retry;
  source->url_ = url;
  source->name_ = printable_url(url);
  source->origin_ = origin_of(parts);
  RangeRequest opening;
  std::optional<Status> ended;
  opening.range = {0, std::max<uint64_t>(1, options.opening_bytes)};
  opening.deadline = options.deadline;
  opening.on_bytes = [&source](ByteSpan bytes) -> Status {
    source->head_.insert(source->head_.end(), bytes.begin(), bytes.end());
    return {};
  };
  opening.on_done = [&ended](const RangeOutcome& outcome) { ended = outcome.status; };
  source->start(std::move(opening));
  while (!ended) source->poll(kNever);
  KVPACK_RETURN_IF_ERROR(*ended);
  return source;
}

RangeId HttpRangeSource::start(RangeRequest request) {
  const RangeId id = next_id_++;
  const RetrySchedule schedule(retry_, request.range.bytes, NetClock::now(), request.deadline, seed_());
  transfers_[id] = std::make_unique<Transfer>(Transfer{std::move(request), schedule, {}, {}, {}, 0, false, false, 0});
  attempt(id, NetTime{});
  return id;
}

void HttpRangeSource::cancel(RangeId id) {
  const auto found = transfers_.find(id);
  if (found == transfers_.end()) return;
  found->second->outcome.cancelled = true;
  client_->cancel(found->second->http_id);
}

void HttpRangeSource::poll(NetTime until) { client_->poll(until); }

void HttpRangeSource::attempt(RangeId id, NetTime not_before) {
  Transfer& transfer = *transfers_.at(id);
  const uint64_t delivered = transfer.outcome.bytes;
  transfer.attempt_bytes = 0;
  transfer.judgement = {};
  transfer.used_redirect = !redirected_url_.empty();

  HttpRequest request;
  request.url = transfer.used_redirect ? redirected_url_ : url_;
  const auto asked = parse_url(url_);
  const auto used = parse_url(request.url);
  request.with_credentials = asked.ok() && used.ok() && is_same_host(*asked, *used);
  request.authorize = authorize_;
  request.headers.push_back(
      "Range: " + range_header(transfer.request.range.offset + delivered, transfer.request.range.bytes - delivered));
  if (!etag_.empty()) request.headers.push_back("If-Match: " + etag_);
  request.not_before = not_before;
  request.deadline = transfer.schedule.give_up_at();
  // `transfer` outlives the exchange: it is only removed when the exchange has ended.
  request.on_head = [this, &transfer](const HttpHead& head) { return on_head(transfer, head); };
  request.on_body = [this, &transfer](ByteSpan bytes) { return on_body(transfer, bytes); };
  request.on_done = [this, id](const HttpResult& result) { on_done(id, result); };
  transfer.http_id = client_->start(std::move(request));
}

Status HttpRangeSource::on_head(Transfer& transfer, const HttpHead& head) {
  const uint64_t delivered = transfer.outcome.bytes;
  ByteRange& range = transfer.request.range;
  transfer.judgement = judge_range_response(head, {range.offset + delivered, range.bytes - delivered, total_, etag_});
  if (transfer.judgement.verdict != RangeVerdict::kAccept) return transfer.judgement.status;
  if (!total_) {  // the opening request
    total_ = transfer.judgement.total;
    etag_ = transfer.judgement.etag;
    range.bytes = transfer.judgement.bytes;
  }
  return {};
}

Status HttpRangeSource::on_body(Transfer& transfer, ByteSpan bytes) {
  if (bytes.size() > transfer.request.range.bytes - transfer.outcome.bytes) {
    transfer.judgement.verdict = RangeVerdict::kRefuse;
    return network_error("the body is longer than the range that its header announced");
  }
  if (transfer.outcome.bytes == 0) transfer.outcome.first_byte = NetClock::now();
  transfer.consumer = transfer.request.on_bytes ? transfer.request.on_bytes(bytes) : Status();
  if (!transfer.consumer.ok()) return transfer.consumer;
  transfer.outcome.bytes += bytes.size();
  transfer.attempt_bytes += bytes.size();
  return {};
}

// Whether another attempt was begun.
bool HttpRangeSource::retry(RangeId id, Transfer& transfer, const HttpResult& result) {
  if (transfer.outcome.cancelled || !transfer.consumer.ok()) return false;
  if (result.failure == HttpFailure::kDeadline || result.failure == HttpFailure::kCancelled) return false;
  const bool refused = result.failure == HttpFailure::kRefused;
  const bool later = refused && transfer.judgement.verdict == RangeVerdict::kLater;
  if (refused && !later) {
    // Where we were redirected to may have expired since (a presigned URL): ask the original once more.
    const bool may_have_expired = transfer.used_redirect && !transfer.forgot_redirect && result.head.status >= 400 &&
                                  transfer.judgement.verdict == RangeVerdict::kRefuse;
    if (!may_have_expired) return false;
    transfer.forgot_redirect = true;
    redirected_url_.clear();
    attempt(id, NetTime{});
    return true;
  }
  const auto at = transfer.schedule.next(NetClock::now(), transfer.attempt_bytes >= kProgressBytes,
                                         later ? transfer.judgement.retry_after_s : std::nullopt);
  if (!at) return false;
  attempt(id, *at);
  return true;
}

void HttpRangeSource::on_done(RangeId id, const HttpResult& result) {
  Transfer& transfer = *transfers_.at(id);
  RangeOutcome& outcome = transfer.outcome;
  if (result.timing.started != NetTime{}) {
    if (outcome.attempts == 0) outcome.started = result.timing.started;
    ++outcome.attempts;
  }
  const bool accepted = transfer.judgement.verdict == RangeVerdict::kAccept;
  if (accepted && result.final_url != url_) redirected_url_ = result.final_url;
  const uint64_t wanted = transfer.request.range.bytes;
  if (outcome.bytes == wanted && accepted) {
    // All bytes are here; how the connection ended after them does not matter.
    finish(id, {});
    return;
  }
  if (retry(id, transfer, result)) return;
  if (!transfer.consumer.ok()) {
    finish(id, transfer.consumer);
    return;
  }
  outcome.replaced = transfer.judgement.verdict == RangeVerdict::kReplaced;
  std::string why = result.status.ok() ? "the response ended early" : result.status.error().message;
  if (const auto after = transfer.judgement.retry_after_s) why += fmt::format(", to be retried after {:g} s", *after);
  if (outcome.bytes > 0)
    why += fmt::format("; got {} of {} bytes at offset {}", outcome.bytes, wanted, transfer.request.range.offset);
  if (outcome.attempts > 1) why += fmt::format("; gave up after {} attempts", outcome.attempts);
  finish(id, network_error(std::move(why)).within(name_));
}

void HttpRangeSource::finish(RangeId id, Status status) {
  const auto found = transfers_.find(id);
  const std::unique_ptr<Transfer> transfer = std::move(found->second);
  transfers_.erase(found);
  RangeOutcome& outcome = transfer->outcome;
  outcome.status = std::move(status);
  outcome.finished = NetClock::now();
  if (outcome.bytes == 0) outcome.first_byte = outcome.finished;
  if (transfer->request.on_done) transfer->request.on_done(outcome);
}

}  // namespace kvpack
