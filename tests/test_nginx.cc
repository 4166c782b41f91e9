// SPDX-License-Identifier: Apache-2.0
// The transport against a real nginx (tests/prepare.sh installs it): HTTP/2, TLS, gzip switched on, credentials, PUT,
// and a server that dies midway.
#include <doctest/doctest.h>

#include "archive_samples.h"
#include "environment_variable.h"
#include "net/push.h"
#include "nginx_server.h"
#include "range_reads.h"

namespace kvpack {
namespace {

// Where nginx is missing there is nothing to test against; the message says so.
bool lacks_nginx() {
  if (NginxServer::is_installed()) return false;
  MESSAGE("SKIPPED: nginx or openssl is not installed (apt install nginx-light openssl)");
  return true;
}

std::string opening_error(const std::string& url, const RangeSourceOptions& options = quick_options()) {
  const auto source = open_range_source(url, options);
  REQUIRE(!source.ok());
  return source.error().message;
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("nginx: HTTP/2 and HTTP/1.1 over TLS, with gzip on") {
  if (lacks_nginx()) return;
  NginxServer nginx;
  // Well compressible, so that a server that compresses would show.
  std::string body(4'000'000, 'x');
  for (size_t i = 0; i < body.size(); i += 97) body[i] = static_cast<char>(i);
  nginx.put("ctx.kvp", body);
  const EnvironmentVariable bundle("CURL_CA_BUNDLE", nginx.certificate());
  for (const bool http1_only : {false, true}) {
    RangeSourceOptions options = quick_options();
    options.http.http1_only = http1_only;
    auto source = open_range_source(nginx.https("/ctx.kvp"), options);
    REQUIRE_MESSAGE(source.ok(), (source.ok() ? "" : source.error().message));
    CHECK((*source)->size() == body.size());
    CHECK(is_strong_etag((*source)->etag()));
    std::string got(body.size(), '\0');
    constexpr size_t kPart = 200'000;
    for (size_t at = 0; at < body.size(); at += kPart) {
      RangeRequest request;
      request.range = {at, kPart};
      request.on_bytes = [&got, next = at](ByteSpan bytes) mutable -> Status {
        std::copy_n(as_text(bytes).data(), bytes.size(), got.begin() + static_cast<std::ptrdiff_t>(next));
        next += bytes.size();
        return {};
      };
      request.on_done = [](const RangeOutcome& outcome) { CHECK(outcome.status.ok()); };
      (*source)->start(std::move(request));
    }
    while ((*source)->pending() > 0) (*source)->poll(kNever);
    CHECK(got == body);
    const HttpCounters counters = (*source)->counters();
    CHECK(counters.requests == 21);
    // HTTP/2 needs one connection; HTTP/1.1 one per range in flight.
    CHECK(counters.connections <= (http1_only ? 6 : 1));
  }
  const auto lines = nginx.log(42);
  REQUIRE(lines.size() == 42);
  CHECK(lines[0] == "GET /ctx.kvp HTTP/2.0 206 65536");
  CHECK(lines[1] == "GET /ctx.kvp HTTP/2.0 206 200000");
  CHECK(lines[21] == "GET /ctx.kvp HTTP/1.1 206 65536");
}

TEST_CASE("nginx: certificates are checked, and hostile 35: https is not left for http") {
  if (lacks_nginx()) return;
  const NginxServer nginx;
  nginx.put("ctx.kvp", random_text(100'000));
  const TimeLimit limit(3);
  {
    const EnvironmentVariable bundle("CURL_CA_BUNDLE", "");
    CHECK(has(opening_error(nginx.https("/ctx.kvp")), "certificate"));
    const EnvironmentVariable file("SSL_CERT_FILE", nginx.certificate());
    CHECK(open_range_source(nginx.https("/ctx.kvp"), quick_options()).ok());
  }
  const EnvironmentVariable bundle("CURL_CA_BUNDLE", nginx.certificate());
  CHECK(open_range_source(nginx.https("/ctx.kvp"), quick_options()).ok());
  CHECK(has(opening_error(nginx.https("/downgrade")), "redirected from https to unprotected"));
  CHECK(has(opening_error(nginx.https("/none")), "404 Not Found"));
  const EnvironmentVariable missing("CURL_CA_BUNDLE", "/nonexistent.pem");
  CHECK(!open_range_source(nginx.https("/ctx.kvp"), quick_options()).ok());
}

TEST_CASE("nginx: basic authentication, by option and by netrc") {
  if (lacks_nginx()) return;
  const NginxServer nginx("auth_basic x; auth_basic_user_file users;\n");
  // {PLAIN} is nginx's own notation for tests.
  std::ofstream(nginx.www().parent_path() / "users") << "me:{PLAIN}secret\n";
  nginx.put("ctx.kvp", random_text(100'000));
  const EnvironmentVariable no_netrc("NETRC", "/nonexistent");
  CHECK(has(opening_error(nginx.http("/ctx.kvp")), "401 Unauthorized"));
  RangeSourceOptions options = quick_options();
  options.http.user = "me";
  options.http.password = "wrong";
  CHECK(has(opening_error(nginx.http("/ctx.kvp"), options), "401 Unauthorized"));
  options.http.password = "secret";
  CHECK(open_range_source(nginx.http("/ctx.kvp"), options).ok());
  const std::string netrc = nginx.www().parent_path() / "netrc";
  std::ofstream(netrc) << "machine 127.0.0.1 login me password secret\n";
  const EnvironmentVariable with_netrc("NETRC", netrc);
  CHECK(open_range_source(nginx.http("/ctx.kvp"), quick_options()).ok());
}

TEST_CASE("nginx: through a proxy, by curl's convention") {
  if (lacks_nginx()) return;
  // The proxy answers for any host, so a host that does not exist shows that it was asked.
  const NginxServer nginx;
  nginx.put("ctx.kvp", random_text(100'000));
  const EnvironmentVariable proxy("http_proxy", nginx.http(""));
  CHECK(open_range_source("http://kvpack-test.invalid/ctx.kvp", quick_options()).ok());
  const EnvironmentVariable excepted("no_proxy", "kvpack-test.invalid");
  CHECK(!open_range_source("http://kvpack-test.invalid/ctx.kvp", quick_options()).ok());
}

TEST_CASE("nginx: killed midway and started again") {
  if (lacks_nginx()) return;
  NginxServer nginx("limit_rate 4m;\n");
  const std::string body = random_text(4'000'000);
  nginx.put("ctx.kvp", body);
  RangeSourceOptions options = quick_options();
  options.retry.first_delay_s = 0.3;
  options.retry.longest_delay_s = 1;
  options.retry.max_attempts = 8;
  options.retry.patience_s = 20;
  auto source = open_range_source(nginx.http("/ctx.kvp"), options);
  REQUIRE(source.ok());
  std::string got;
  std::optional<RangeOutcome> outcome;
  RangeRequest request;
  request.range = {0, body.size()};
  request.on_bytes = [&](ByteSpan bytes) -> Status {
    got += as_text(bytes);
    return {};
  };
  request.on_done = [&](const RangeOutcome& ended) { outcome = ended; };
  (*source)->start(std::move(request));
  while (got.size() < 1'000'000) (*source)->poll(in_seconds(5));
  nginx.stop();
  (*source)->poll(in_seconds(0.1));
  CHECK(!outcome);
  nginx.start();
  while (!outcome) (*source)->poll(in_seconds(5));
  REQUIRE(outcome->status.ok());
  CHECK(outcome->attempts >= 2);
  CHECK(got == body);
}

TEST_CASE("nginx: an archive replaced midway is reported as such") {
  if (lacks_nginx()) return;
  const NginxServer nginx;
  nginx.put("ctx.kvp", random_text(300'000, 1));
  auto source = open_range_source(nginx.http("/ctx.kvp"), quick_options());
  REQUIRE(source.ok());
  nginx.put("other", random_text(300'001, 2));
  std::filesystem::rename(nginx.www() / "other", nginx.www() / "ctx.kvp");
  const ReadRange read = read_range(**source, {100'000, 100'000});
  CHECK(read.outcome.replaced);
  CHECK(read.bytes.empty());
  CHECK(has(read.outcome.status.error().message, "replaced"));
}

TEST_CASE("push: PUT to nginx, once, and not over another archive") {
  if (lacks_nginx()) return;
  const NginxServer nginx("dav_methods PUT; create_full_put_path on;\n");
  const std::string path = nginx.www().parent_path() / "ctx.kvp";
  const Bytes first = random_archive(3).file, second = random_archive(4).file;
  std::ofstream(path, std::ios::binary) << as_text(first);
  PushOptions options;
  options.net = quick_options();
  const auto sent = push_archive(path, nginx.http("/deep/folder/"), options);
  REQUIRE_MESSAGE(sent.ok(), (sent.ok() ? "" : sent.error().message));
  CHECK(sent->sent_bytes == first.size());
  CHECK(nginx.get("deep/folder/ctx.kvp") == as_text(first));
  // look, PUT, look
  CHECK(nginx.log(3).size() == 3);
  CHECK(push_archive(path, nginx.http("/deep/folder/ctx.kvp"), options)->already_there);
  CHECK(nginx.log(4).size() == 4);

  std::ofstream(path, std::ios::binary) << as_text(second);
  const auto refused = push_archive(path, nginx.http("/deep/folder/ctx.kvp"), options);
  REQUIRE(!refused.ok());
  CHECK(refused.error().kind == ErrorKind::kInvalidArgument);
  CHECK(has(refused.error().message, "something else is there already"));
  options.overwrite = true;
  CHECK(push_archive(path, nginx.http("/deep/folder/ctx.kvp"), options)->sent_bytes == second.size());
  CHECK(nginx.get("deep/folder/ctx.kvp") == as_text(second));

  std::ofstream(path, std::ios::binary) << "no archive";
  CHECK(push_archive(path, nginx.http("/x.kvp"), options).error().kind == ErrorKind::kNotKvpack);
  CHECK(push_archive(path, "ftp://host/x", options).error().kind == ErrorKind::kInvalidArgument);
  const NginxServer read_only;
  std::ofstream(path, std::ios::binary) << as_text(first);
  const auto no_put = push_archive(path, read_only.http("/x.kvp"), options);
  REQUIRE(!no_put.ok());
  CHECK(no_put.error().kind == ErrorKind::kNetwork);
  CHECK(has(no_put.error().message, "405"));
}

}  // namespace kvpack
