// SPDX-License-Identifier: Apache-2.0
// An exchange is a chain of hops: one libcurl transfer, and one more for each redirect. libcurl follows none itself,
// because whether the next host may be asked, and with which credentials, is decided here (check_redirect).
#include "net/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "net/url.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxRedirectBodyBytes = 16 * 1024;  // read, and dropped, to keep the connection
constexpr long kReceiveBufferBytes = 512 * 1024;

struct EasyDeleter {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using EasyHandle = std::unique_ptr<CURL, EasyDeleter>;
using HeaderList = std::unique_ptr<curl_slist, ListDeleter>;
using UrlHandle = std::unique_ptr<CURLU, UrlDeleter>;

double seconds_between(NetTime from, NetTime to) { return std::chrono::duration<double>(to - from).count(); }

std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
  std::string copy(text);
  curl_free(text);
  return copy;
}

// `location` as the server of `base` means it.
Result<std::string> resolved_location(const std::string& base, const std::string& location) {
  const UrlHandle url(curl_url());
  if (curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) {
    return network_error("redirected to what is no http(s) URL");
  }
  return url_part(url.get(), CURLUPART_URL);
}

bool is_redirect(const HttpRequest& request, int status) {
  if (status == 307 || status == 308) return true;
  return request.method == "GET" && (status == 301 || status == 302 || status == 303);
}

bool is_lost_connection(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:  // while connecting: nothing else is timed by libcurl
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

struct Exchange {
  HttpId id = 0;
  HttpRequest request;
  HttpCounters* counters = nullptr;
  bool* delivered = nullptr;

  std::string url;  // of this hop
  bool with_credentials = true;
  uint32_t redirects = 0;
  bool running = false;
  bool cancelled = false;

  EasyHandle easy;
  HeaderList headers;
  HeadParser parser;
  bool redirecting = false;
  Status refusal;  // why a callback of ours ended the hop
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
  NetTime window_start{};
  uint64_t window_bytes = 0;  // moved when the window began
  HttpTiming timing;
  char error_text[CURL_ERROR_SIZE] = {};

  uint64_t body_bytes() const { return request.read_body ? request.body_bytes : request.body.size(); }
  uint64_t moved_bytes() const { return parser.bytes() + received_bytes + sent_bytes; }
  Status add_header_line(std::string_view line);
  Status add_body(ByteSpan bytes);
};

Status Exchange::add_header_line(std::string_view line) {
  const bool was_complete = parser.complete();
  KVPACK_ASSIGN_OR_RETURN(const bool complete, parser.add(line));
  if (!complete || was_complete) return {};
  redirecting = is_redirect(request, parser.head().status) && parser.head().field("location").has_value();
  if (redirecting) return {};
  *delivered = true;
  return request.on_head ? request.on_head(parser.head()) : Status();
}

Status Exchange::add_body(ByteSpan bytes) {
  received_bytes += bytes.size();
  if (redirecting) {
    if (received_bytes > kMaxRedirectBodyBytes) return network_error("redirected with an endless body");
    return {};
  }
  if (timing.body_bytes == 0) timing.first_body_byte = NetClock::now();
  timing.body_bytes += bytes.size();
  *delivered = true;
  KVPACK_RETURN_IF_ERROR(request.on_body ? request.on_body(bytes) : Status());
  counters->body_bytes += bytes.size();
  return {};
}

// libcurl's callbacks: any return other than `count` ends the transfer with CURLE_WRITE_ERROR.
size_t accept(Exchange& exchange, Status status, size_t count) {
  if (exchange.cancelled) return 0;
  if (status.ok()) return count;
  exchange.refusal = std::move(status);
  return 0;
}

size_t on_header(char* data, size_t, size_t count, void* exchange) {
  auto& self = *static_cast<Exchange*>(exchange);
  return count == 0 ? 0 : accept(self, self.add_header_line({data, count}), count);
}

size_t on_write(char* data, size_t, size_t count, void* exchange) {
  auto& self = *static_cast<Exchange*>(exchange);
  if (count == 0 || self.cancelled) return 0;
  return accept(self, self.add_body(as_byte_span({data, count})), count);
}

size_t on_read(char* data, size_t, size_t count, void* exchange) {
  auto& self = *static_cast<Exchange*>(exchange);
  const size_t part = std::min<uint64_t>(count, self.body_bytes() - self.sent_bytes);
  if (part > 0 && self.request.read_body) {
    Status status = self.request.read_body(self.sent_bytes, {reinterpret_cast<std::byte*>(data), part});
    if (!status.ok()) {
      self.refusal = std::move(status);
      return CURL_READFUNC_ABORT;
    }
  } else if (part > 0) {
    std::memcpy(data, self.request.body.data() + self.sent_bytes, part);
  }
  self.sent_bytes += part;
  return part;
}

// libcurl rewinds when a kept connection turns out to be dead.
int on_seek(void* exchange, curl_off_t offset, int origin) {
  auto& self = *static_cast<Exchange*>(exchange);
  if (origin != SEEK_SET || offset < 0 || static_cast<uint64_t>(offset) > self.body_bytes()) {
    return CURL_SEEKFUNC_FAIL;
  }
  self.sent_bytes = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

// $CURL_CA_BUNDLE, else $SSL_CERT_DIR and $SSL_CERT_FILE, as curl(1) does.
void set_certificates(CURL* easy) {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
  };
  if (const char* bundle = variable("CURL_CA_BUNDLE")) {
    curl_easy_setopt(easy, CURLOPT_CAINFO, bundle);
    return;
  }
  if (const char* folder = variable("SSL_CERT_DIR")) curl_easy_setopt(easy, CURLOPT_CAPATH, folder);
  if (const char* file = variable("SSL_CERT_FILE")) curl_easy_setopt(easy, CURLOPT_CAINFO, file);
}

void set_credentials(CURL* easy, const HttpOptions& options, const Exchange& exchange) {
  if (exchange.with_credentials && !options.user.empty()) {
    curl_easy_setopt(easy, CURLOPT_USERNAME, options.user.c_str());
    curl_easy_setopt(easy, CURLOPT_PASSWORD, options.password.c_str());
  } else if (!exchange.with_credentials || (options.bearer_token.empty() && !exchange.request.authorize)) {
    // A netrc has an entry per host, so it may speak after a redirect too.
    curl_easy_setopt(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_OPTIONAL));
    if (const char* file = std::getenv("NETRC")) curl_easy_setopt(easy, CURLOPT_NETRC_FILE, file);
  }
}

Result<HeaderList> header_list(const HttpOptions& options, const Exchange& exchange) {
  std::vector<std::string> lines = exchange.request.headers;
  if (exchange.with_credentials) {
    lines.insert(lines.end(), options.headers.begin(), options.headers.end());
    if (!options.bearer_token.empty()) lines.push_back("Authorization: Bearer " + options.bearer_token);
    if (exchange.request.authorize) KVPACK_RETURN_IF_ERROR(exchange.request.authorize(exchange.url, lines));
  }
  lines.emplace_back("Accept-Encoding: identity");
  lines.emplace_back("Expect:");  // none: it would cost a round trip
  HeaderList list;
  for (const std::string& line : lines) {
    curl_slist* longer = curl_slist_append(list.get(), line.c_str());
    if (longer == nullptr) return limit_exceeded("out of memory");
    list.release();
    list.reset(longer);
  }
  return list;
}

void set_method(CURL* easy, Exchange& exchange) {
  const HttpRequest& request = exchange.request;
  if (request.has_body) {
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(exchange.body_bytes()));
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(easy, CURLOPT_READDATA, &exchange);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, &exchange);
  }
  if (request.method == "HEAD") curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  if (request.method != "GET" && request.method != "HEAD") {
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
}

void set_transfer(CURL* easy, const HttpOptions& options, Exchange& exchange) {
  curl_easy_setopt(easy, CURLOPT_URL, exchange.url.c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                   static_cast<long>(options.http1_only ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS));
  curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);  // rather a stream of a connection that is being made than another
  curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L);
  curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout_s * 1000));
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
  curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange.headers.get());
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "kvpack");
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_write);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange.error_text);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, &exchange);
}

}  // namespace

Result<Url> parse_url(const std::string& text) {
  const UrlHandle handle(curl_url());
  const auto bad = [&text](std::string_view why) {
    return invalid_argument(fmt::format("{}: {}", printable_url(text), why));
  };
  if (!is_http_url(text)) return bad("no http:// or https:// URL");
  if (const CURLUcode code = curl_url_set(handle.get(), CURLUPART_URL, text.c_str(), 0); code != CURLUE_OK) {
    return bad(curl_url_strerror(code));
  }
  if (!url_part(handle.get(), CURLUPART_USER).empty() || !url_part(handle.get(), CURLUPART_PASSWORD).empty()) {
    return bad("credentials in a URL are refused; use ~/.netrc, or an option");
  }
  Url url;
  url.scheme = url_part(handle.get(), CURLUPART_SCHEME);
  url.host = url_part(handle.get(), CURLUPART_HOST);
  std::transform(url.host.begin(), url.host.end(), url.host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  url.port = url_part(handle.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
  url.has_default_port = url.port == (url.scheme == "https" ? "443" : "80");
  url.path = url_part(handle.get(), CURLUPART_PATH);
  url.query = url_part(handle.get(), CURLUPART_QUERY);
  return url;
}

class HttpClient::Implementation {
 public:
  explicit Implementation(HttpOptions options) : options_(std::move(options)), multi_(curl_multi_init()) {}
  ~Implementation() {
    for (auto& [id, exchange] : exchanges_) detach(*exchange);
    exchanges_.clear();
    curl_multi_cleanup(multi_);
  }
  Implementation(const Implementation&) = delete;
  Implementation& operator=(const Implementation&) = delete;

  HttpId start(HttpRequest request);
  void cancel(HttpId id);
  void poll(NetTime until);
  void wake() {
    woken_ = true;
    curl_multi_wakeup(multi_);
  }
  size_t pending() const { return exchanges_.size(); }
  const HttpOptions& options() const { return options_; }
  const HttpCounters& counters() const { return counters_; }

 private:
  Status start_hop(Exchange& exchange);
  void start_waiting(NetTime now);
  void collect_ended();
  void end_hop(Exchange& exchange, CURLcode code);
  Result<bool> follow_redirect(Exchange& exchange);
  void end_overdue(NetTime now);
  bool is_stalled(Exchange& exchange, NetTime now) const;
  void finish(Exchange& exchange, HttpFailure failure, Status status);
  void detach(Exchange& exchange);
  NetTime next_event(NetTime now) const;

  HttpOptions options_;
  CURLM* multi_;
  HttpCounters counters_;
  HttpId next_id_ = 1;
  std::map<HttpId, std::unique_ptr<Exchange>> exchanges_;  // in the order of start()
  size_t running_ = 0;
  bool delivered_ = false;
  std::atomic<bool> woken_ = false;
};

HttpId HttpClient::Implementation::start(HttpRequest request) {
  auto exchange = std::make_unique<Exchange>();
  exchange->id = next_id_++;
  exchange->url = request.url;
  exchange->with_credentials = request.with_credentials;
  exchange->request = std::move(request);
  exchange->counters = &counters_;
  exchange->delivered = &delivered_;
  const HttpId id = exchange->id;
  exchanges_[id] = std::move(exchange);
  return id;
}

void HttpClient::Implementation::cancel(HttpId id) {
  const auto found = exchanges_.find(id);
  if (found != exchanges_.end()) found->second->cancelled = true;
}

Status HttpClient::Implementation::start_hop(Exchange& exchange) {
  KVPACK_RETURN_IF_ERROR(parse_url(exchange.url));
  exchange.easy.reset(curl_easy_init());
  if (exchange.easy == nullptr) return limit_exceeded("out of memory");
  KVPACK_ASSIGN_OR_RETURN(exchange.headers, header_list(options_, exchange));
  exchange.parser = HeadParser();
  exchange.sent_bytes = exchange.received_bytes = exchange.window_bytes = 0;
  CURL* easy = exchange.easy.get();
  set_transfer(easy, options_, exchange);
  set_method(easy, exchange);
  set_credentials(easy, options_, exchange);
  set_certificates(easy);
  if (curl_multi_add_handle(multi_, easy) != CURLM_OK) return limit_exceeded("libcurl takes no more transfers");
  exchange.running = true;
  exchange.window_start = NetClock::now();
  if (exchange.redirects == 0) exchange.timing.started = exchange.window_start;
  ++running_;
  ++counters_.requests;
  return {};
}

void HttpClient::Implementation::start_waiting(NetTime now) {
  std::vector<HttpId> ids;  // finish() below changes the map
  for (const auto& [id, exchange] : exchanges_) {
    if (!exchange->running && exchange->request.not_before <= now) ids.push_back(id);
  }
  for (const HttpId id : ids) {
    if (running_ >= options_.max_in_flight) return;
    const auto found = exchanges_.find(id);
    if (found == exchanges_.end() || found->second->running) continue;
    const Status status = start_hop(*found->second);
    if (!status.ok()) finish(*found->second, HttpFailure::kRefused, status);
  }
}

void HttpClient::Implementation::collect_ended() {
  int left = 0;
  while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    void* exchange = nullptr;
    const CURLcode code = message->data.result;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &exchange);
    end_hop(*static_cast<Exchange*>(exchange), code);
  }
}

void HttpClient::Implementation::end_hop(Exchange& exchange, CURLcode code) {
  long connects = 0;
  curl_easy_getinfo(exchange.easy.get(), CURLINFO_NUM_CONNECTS, &connects);
  counters_.connections += static_cast<uint64_t>(std::max(0L, connects));
  exchange.timing.reused_connection = connects == 0;
  detach(exchange);
  if (exchange.cancelled) {
    finish(exchange, HttpFailure::kCancelled, network_error("cancelled"));
  } else if (!exchange.refusal.ok()) {
    finish(exchange, HttpFailure::kRefused, exchange.refusal);
  } else if (code != CURLE_OK) {
    const char* detail = *exchange.error_text != '\0' ? exchange.error_text : curl_easy_strerror(code);
    finish(exchange, is_lost_connection(code) ? HttpFailure::kConnection : HttpFailure::kRefused,
           network_error(detail));
  } else if (!exchange.redirecting) {
    finish(exchange, HttpFailure::kNone, {});
  } else if (const auto followed = follow_redirect(exchange); !followed.ok()) {
    finish(exchange, HttpFailure::kRefused, followed.error());
  }
}

Result<bool> HttpClient::Implementation::follow_redirect(Exchange& exchange) {
  if (exchange.redirects >= options_.max_redirects) {
    return network_error(fmt::format("redirected more than {} times", options_.max_redirects));
  }
  const std::string location(*exchange.parser.head().field("location"));
  KVPACK_ASSIGN_OR_RETURN(const std::string target, resolved_location(exchange.url, location));
  const auto to = parse_url(target);
  if (!to.ok()) return network_error("redirected, not followed: " + to.error().message);
  KVPACK_ASSIGN_OR_RETURN(const Url from, parse_url(exchange.url));
  KVPACK_RETURN_IF_ERROR(check_redirect(from, *to));
  // Once dropped, credentials stay dropped, even if a later hop leads back.
  if (!is_same_host(from, *to)) exchange.with_credentials = false;
  exchange.url = target;
  exchange.redirecting = false;
  ++exchange.redirects;
  ++counters_.redirects;
  KVPACK_RETURN_IF_ERROR(start_hop(exchange));
  return true;
}

bool HttpClient::Implementation::is_stalled(Exchange& exchange, NetTime now) const {
  curl_off_t connected_us = 0;
  curl_easy_getinfo(exchange.easy.get(), CURLINFO_PRETRANSFER_TIME_T, &connected_us);
  const uint64_t moved = exchange.moved_bytes();
  if (connected_us == 0 || moved - exchange.window_bytes >= options_.stall_bytes) {
    exchange.window_start = now;
    exchange.window_bytes = moved;
  }
  return seconds_between(exchange.window_start, now) >= options_.stall_s;
}

// Cancelled, past their deadline, or stalled.
void HttpClient::Implementation::end_overdue(NetTime now) {
  std::vector<std::pair<HttpId, HttpFailure>> ends;
  for (const auto& [id, exchange] : exchanges_) {
    if (exchange->cancelled) {
      ends.emplace_back(id, HttpFailure::kCancelled);
    } else if (now >= exchange->request.deadline) {
      ends.emplace_back(id, HttpFailure::kDeadline);
    } else if (exchange->running && is_stalled(*exchange, now)) {
      ends.emplace_back(id, HttpFailure::kStalled);
    }
  }
  for (const auto& [id, failure] : ends) {
    const auto found = exchanges_.find(id);
    if (found == exchanges_.end()) continue;
    Status status = network_error(failure == HttpFailure::kCancelled ? "cancelled" : "the deadline passed");
    if (failure == HttpFailure::kStalled) {
      status =
          network_error(fmt::format("stalled: less than {} bytes in {:g} s", options_.stall_bytes, options_.stall_s));
    }
    finish(*found->second, failure, std::move(status));
  }
}

void HttpClient::Implementation::detach(Exchange& exchange) {
  if (!exchange.running) return;
  exchange.running = false;
  --running_;
  curl_multi_remove_handle(multi_, exchange.easy.get());
  exchange.easy.reset();
  exchange.headers.reset();
}

void HttpClient::Implementation::finish(Exchange& exchange, HttpFailure failure, Status status) {
  detach(exchange);
  const auto found = exchanges_.find(exchange.id);
  const std::unique_ptr<Exchange> owned = std::move(found->second);
  exchanges_.erase(found);
  delivered_ = true;
  HttpResult result;
  result.failure = failure;
  result.status = std::move(status);
  result.head = exchange.parser.head();
  result.final_url = exchange.url;
  result.timing = exchange.timing;
  result.timing.finished = NetClock::now();
  if (result.timing.body_bytes == 0) result.timing.first_body_byte = result.timing.finished;
  if (owned->request.on_done) owned->request.on_done(result);
}

// When poll() has something to do even if nothing arrives.
NetTime HttpClient::Implementation::next_event(NetTime now) const {
  NetTime next = kNever;
  const auto stall = std::chrono::duration_cast<NetClock::duration>(std::chrono::duration<double>(options_.stall_s));
  for (const auto& [id, exchange] : exchanges_) {
    if (exchange->cancelled) return now;
    next = std::min(next, exchange->request.deadline);
    if (exchange->running) {
      next = std::min(next, exchange->window_start + stall);
    } else if (running_ < options_.max_in_flight) {
      next = std::min(next, exchange->request.not_before);
    }
  }
  return next;
}

void HttpClient::Implementation::poll(NetTime until) {
  delivered_ = false;
  for (;;) {
    int running = 0;
    start_waiting(NetClock::now());
    curl_multi_perform(multi_, &running);
    collect_ended();
    end_overdue(NetClock::now());
    const NetTime now = NetClock::now();
    if (woken_.exchange(false) || delivered_ || exchanges_.empty() || now >= until) return;
    constexpr auto kLongestWait = std::chrono::milliseconds(1000);
    const NetTime wake_at = std::min({until, next_event(now), now + kLongestWait});
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::max(wake_at - now, NetClock::duration::zero()));
    curl_multi_poll(multi_, nullptr, 0, static_cast<int>(wait.count()), nullptr);
  }
}

Result<std::unique_ptr<HttpClient>> HttpClient::create(HttpOptions options) {
  static std::once_flag initialized;
  std::call_once(initialized, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  std::vector<std::string> lines = options.headers;
  lines.insert(lines.end(), {options.bearer_token, options.user, options.password});
  for (const std::string& line : lines) {
    if (line.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) {
      return invalid_argument("a header or credential has a line break in it");
    }
  }
  for (const std::string& line : options.headers) {
    if (!parse_field(line)) return invalid_argument(fmt::format("'{}' is no header, expected 'Name: value'", line));
  }
  return std::unique_ptr<HttpClient>(new HttpClient(std::make_unique<Implementation>(std::move(options))));
}

HttpClient::HttpClient(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
HttpClient::~HttpClient() = default;
HttpId HttpClient::start(HttpRequest request) { return implementation_->start(std::move(request)); }
void HttpClient::cancel(HttpId id) { implementation_->cancel(id); }
void HttpClient::poll(NetTime until) { implementation_->poll(until); }
void HttpClient::wake() { implementation_->wake(); }
size_t HttpClient::pending() const { return implementation_->pending(); }
const HttpOptions& HttpClient::options() const { return implementation_->options(); }
const HttpCounters& HttpClient::counters() const { return implementation_->counters(); }

Result<HttpResponse> exchange(HttpClient& client, HttpRequest request, uint64_t max_body_bytes) {
  HttpResponse response;
  std::optional<HttpResult> ended;
  request.on_body = [&](ByteSpan bytes) -> Status {
    if (response.body.size() + bytes.size() > max_body_bytes) {
      return limit_exceeded(fmt::format("the response is longer than {} bytes", max_body_bytes));
    }
    response.body += as_text(bytes);
    return {};
  };
  request.on_done = [&, inner = std::move(request.on_done)](const HttpResult& result) {
    ended = result;
    if (inner) inner(result);
  };
  client.start(std::move(request));
  while (!ended) client.poll(kNever);
  if (!ended->status.ok()) return ended->status.error();
  response.head = std::move(ended->head);
  return response;
}

}  // namespace kvpack
