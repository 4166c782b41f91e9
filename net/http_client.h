// SPDX-License-Identifier: Apache-2.0
// HTTP exchanges on libcurl's multi interface: several at once on one thread, connections kept and shared, HTTP/2 where
// a server offers it. Only http_client.cc includes libcurl. Proxies, netrc and certificates follow curl's conventions:
// http_proxy, https_proxy, all_proxy, no_proxy; ~/.netrc or $NETRC; $CURL_CA_BUNDLE, $SSL_CERT_FILE, $SSL_CERT_DIR.
//
// A client belongs to the thread that calls poll(); every callback runs inside poll(). Only wake() may be called from
// elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "net/http_message.h"

namespace kvpack {

using NetClock = std::chrono::steady_clock;
using NetTime = NetClock::time_point;
inline constexpr NetTime kNever = NetTime::max();

struct HttpOptions {
  bool http1_only = false;
  uint32_t max_in_flight = 6;  // exchanges; more wait their turn
  double connect_timeout_s = 10;
  // Stalled: fewer than `stall_bytes` bytes, headers included, within any `stall_s`, connecting aside.
  double stall_s = 10;
  uint64_t stall_bytes = 1024;
  uint32_t max_redirects = 5;

  // Sent to the host that was asked for, never to another that it redirects to.
  std::vector<std::string> headers;  // "Name: value"
  std::string bearer_token;
  std::string user;  // with `password`: basic authentication
  std::string password;
};

// Why an exchange ended without a complete response.
enum class HttpFailure {
  kNone,
  kConnection,  // could not connect, or the connection was lost: worth another try
  kStalled,     // worth another try
  kDeadline,    // the request's deadline passed
  kCancelled,
  kRefused,  // the response, or where it redirects, is not acceptable: on_head or on_body said so, or our own limits
};

struct HttpTiming {
  NetTime started{};          // handed to libcurl, after any wait for a free slot
  NetTime first_body_byte{};  // of the final response; `finished` if it has none
  NetTime finished{};
  uint64_t body_bytes = 0;  // of the final response
  bool reused_connection = false;
};

struct HttpResult {
  HttpFailure failure = HttpFailure::kNone;
  Status status;          // network, unless a callback returned another kind
  HttpHead head;          // of the final response, as far as it came
  std::string final_url;  // after redirects
  HttpTiming timing;
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;                   // http(s)
  std::vector<std::string> headers;  // "Name: value"; may go to another host, unlike HttpOptions::headers
  bool with_credentials = true;      // false: `url` is not on the host that HttpOptions' credentials are for
  // The body of a PUT or POST; must stay valid until on_done. No body at all unless `has_body`.
  ByteSpan body;
  bool has_body = false;
  // Instead of `body`, for what is too large for memory: fills `out` from `offset` of a body of `body_bytes`.
  std::function<Status(uint64_t offset, MutableByteSpan out)> read_body;
  uint64_t body_bytes = 0;

  // Called just before each request is sent, redirects included as long as the host is the same; adds headers such as
  // a signature to `headers`.
  std::function<Status(const std::string& url, std::vector<std::string>& headers)> authorize;
  // Called with the complete head of the final response, before any byte of its body is accepted. An error ends the
  // exchange (kRefused).
  std::function<Status(const HttpHead&)> on_head;
  // Called as body bytes arrive, after on_head. An error ends the exchange (kRefused).
  std::function<Status(ByteSpan)> on_body;
  // Called once, whatever happens, cancel() included. May start further requests.
  std::function<void(const HttpResult&)> on_done;

  NetTime not_before{};  // for retries
  NetTime deadline = kNever;
};

using HttpId = uint64_t;

// Totals since the client was made. `requests` counts what went on the wire, redirects and retries included.
struct HttpCounters {
  uint64_t requests = 0;
  uint64_t redirects = 0;
  uint64_t connections = 0;  // opened
  uint64_t body_bytes = 0;   // accepted by on_body
};

class HttpClient {
 public:
  // Errors: invalid_argument for what is no header, and for line breaks in headers or credentials.
  static Result<std::unique_ptr<HttpClient>> create(HttpOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  HttpId start(HttpRequest request);
  // Ends an exchange; its on_done is called inside the next poll(). Unknown ids are ignored.
  void cancel(HttpId id);

  // Moves all exchanges on until something was delivered (head, body or end) or `until` has come, whichever is first.
  // Returns at once when nothing is under way.
  void poll(NetTime until);
  // Makes a poll() in another thread return.
  void wake();

  size_t pending() const;  // exchanges that have not ended
  const HttpOptions& options() const;
  const HttpCounters& counters() const;

 private:
  class Implementation;
  explicit HttpClient(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

// One exchange from start to end, with its whole body in memory; the body of an error status too (up to
// `max_body_bytes`). For small things: uploads, llama-server, S3's answers.
struct HttpResponse {
  HttpHead head;
  std::string body;
};
// Errors: network (no complete response; a status of 400 or more is a response), limit (body too large).
Result<HttpResponse> exchange(HttpClient& client, HttpRequest request, uint64_t max_body_bytes = 1 << 20);

}  // namespace kvpack
