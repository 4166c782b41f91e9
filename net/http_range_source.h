// SPDX-License-Identifier: Apache-2.0
// Ranges of an archive behind an http(s) URL. Whatever goes wrong in a range, its bytes are delivered in order and
// once: after a cut the next attempt asks for the rest.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>

#include "net/range_response.h"
#include "net/range_source.h"

namespace kvpack {

using HttpAuthorize = std::function<Status(const std::string& url, std::vector<std::string>& headers)>;

class HttpRangeSource : public RangeSource {
 public:
  // Sends the opening request. `authorize` may be empty. Errors: network, invalid_argument.
  static Result<std::unique_ptr<HttpRangeSource>> open(const std::string& url, const RangeSourceOptions& options,
                                                       HttpAuthorize authorize);

  uint64_t size() const override { return *total_; }
  std::string etag() const override { return etag_; }
  std::string name() const override { return name_; }
  std::string origin() const override { return origin_; }
  ByteSpan head() const override { return head_; }
  RangeId start(RangeRequest request) override;
  void cancel(RangeId id) override;
  void poll(NetTime until) override;
  void wake() override { client_->wake(); }
  size_t pending() const override { return transfers_.size(); }
  HttpCounters counters() const override { return client_->counters(); }

 private:
  struct Transfer {
    RangeRequest request;
    RetrySchedule schedule;
    RangeOutcome outcome;
    RangeJudgement judgement;      // of the attempt under way
    Status consumer;               // what on_bytes said
    uint64_t attempt_bytes = 0;    // delivered by it
    bool used_redirect = false;    // it went straight to where an earlier one was redirected
    bool forgot_redirect = false;  // once per range: then the original URL is asked again
    HttpId http_id = 0;
  };

  HttpRangeSource() = default;
  void attempt(RangeId id, NetTime not_before);
  Status on_head(Transfer& transfer, const HttpHead& head);
  Status on_body(Transfer& transfer, ByteSpan bytes);
  void on_done(RangeId id, const HttpResult& result);
  bool retry(RangeId id, Transfer& transfer, const HttpResult& result);
  void finish(RangeId id, Status status);

  std::unique_ptr<HttpClient> client_;
  HttpAuthorize authorize_;
  RetryOptions retry_;
  std::string url_;
  std::string redirected_url_;  // where the last accepted response came from, if elsewhere
  std::string name_;
  std::string origin_;
  std::optional<uint64_t> total_;  // unknown until the opening request is answered
  std::string etag_;
  Bytes head_;
  RangeId next_id_ = 1;
  std::map<RangeId, std::unique_ptr<Transfer>> transfers_;
  std::random_device seed_;
};

}  // namespace kvpack
