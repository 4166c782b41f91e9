// SPDX-License-Identifier: Apache-2.0
// Misbehaviour over HTTP/2: the cases of test_http_hostile.cc that a server can pass on, through a real nginx that
// speaks HTTP/2 over TLS to us and passes on what a scripted server answers (a cut connection becomes RST_STREAM); and
// nginx by itself, killed, told to close connections (GOAWAY), its file replaced. 29 and endless headers (30) end at
// nginx.
#include <doctest/doctest.h>

#include "environment_variable.h"
#include "nginx_server.h"
#include "scripted_replies.h"

namespace kvpack {
namespace {

constexpr uint64_t kBodyBytes = 300'000;
constexpr ByteRange kRange = {100'000, 50'000};

bool lacks_nginx() {
  if (NginxServer::is_installed()) return false;
  MESSAGE("SKIPPED: nginx or openssl is not installed (apt install nginx-light openssl)");
  return true;
}

// Every request to nginx goes on to the scripted server, and its answer comes back as it is.
std::string pass_on_to(const ScriptedServer& server) {
  return fmt::format(
      "location / {{ proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1; proxy_buffering off; proxy_redirect off;\n"
      "proxy_next_upstream off; }}\n",
      server.port());
}

// Opens right, then reads one range that is answered with `later`.
struct Passed {
  explicit Passed(Reply later)
      : body(random_text(kBodyBytes)),
        server([this, later](const ScriptedRequest& request, auto& connection) {
          if (request.number == 0) return answer_right(request, connection, body);
          later(request, connection);
        }),
        nginx(pass_on_to(server)),
        bundle("CURL_CA_BUNDLE", nginx.certificate()) {
    auto source = open_range_source(nginx.https("/ctx.kvp"), quick_options());
    REQUIRE_MESSAGE(source.ok(), (source.ok() ? "" : source.error().message));
    read = read_range(**source, kRange);
    for (const std::string& line : nginx.log(2)) CHECK(line.find("HTTP/2.0") != std::string::npos);
  }

  std::string body;
  ScriptedServer server;
  NginxServer nginx;
  EnvironmentVariable bundle;
  ReadRange read;
};

void check_refused(const Reply& later, std::string_view expected) {
  const Passed passed(later);
  REQUIRE(!passed.read.outcome.status.ok());
  INFO(passed.read.outcome.status.error().message);
  CHECK(passed.read.outcome.status.error().kind == ErrorKind::kNetwork);
  CHECK(passed.read.outcome.status.error().message.find(expected) != std::string::npos);
  // Nothing wrong is accepted, however much of it comes.
  CHECK(passed.read.bytes == passed.body.substr(kRange.offset, passed.read.bytes.size()));
}

Reply edited(std::string from, std::string to) {
  return edited_answer(kBodyBytes, [from, to](std::string& head) { replace_once(head, from, to); });
}

Reply status_answer(std::string_view status) {
  return fixed_answer(fmt::format("HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", status));
}

}  // namespace

TEST_CASE("http2, hostile 25 to 28, 36: answers that are no such range") {
  if (lacks_nginx()) return;
  const TimeLimit limit(20);
  const std::string body = random_text(kBodyBytes);
  check_refused(fixed_answer(fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.size()) + body),
                "does not support ranges");
  check_refused(edited("bytes 100000-", "bytes 100001-"), "got range bytes 100001-149999/300000");
  check_refused(edited("Content-Range", "X-Range"), "0 Content-Range headers");
  check_refused(
      [](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
        RightAnswer right = right_answer(request, kBodyBytes);
        replace_once(right.head, "Content-Length: 50000", "Transfer-Encoding: chunked");
        const std::string more = random_text(kBodyBytes).substr(right.first, 50'001);
        connection.send(right.head + "c351\r\n" + more + "\r\n0\r\n\r\n");
      },
      "longer than the range");
  check_refused(
      [](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
        ScriptedRequest less = request;
        less.headers["range"] = "bytes=100000-139999";
        answer_right(less, connection, random_text(kBodyBytes));
      },
      "got range bytes 100000-139999/300000");
  check_refused(edited("ETag", "Content-Encoding: gzip\r\nETag"), "encoded the range (gzip)");
  check_refused(edited("ETag", "Content-Type: multipart/byteranges; boundary=x\r\nETag"), "multipart");
  check_refused(fixed_answer("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nlogin"),
                "captive portal");
}

TEST_CASE("http2, hostile 30 to 32: a body without end, a drip, a stall") {
  if (lacks_nginx()) return;
  const TimeLimit limit(20);
  check_refused(
      [](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
        RightAnswer right = right_answer(request, kBodyBytes);
        replace_once(right.head, "Content-Length: 50000", "Transfer-Encoding: chunked");
        connection.send(right.head + "c350\r\n" + random_text(kBodyBytes).substr(right.first, 50'000) + "\r\n");
        while (connection.send("2710\r\n" + std::string(10'000, 'x') + "\r\n")) continue;
      },
      "longer than the range");
  {
    const Passed passed(dripping_answer(kBodyBytes, 100));
    REQUIRE(!passed.read.outcome.status.ok());
    CHECK(passed.read.outcome.status.error().message.find("deadline passed") != std::string::npos);
    CHECK(passed.read.bytes.size() < kRange.bytes);
  }
  check_refused(
      [](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
        connection.send(right_answer(request, kBodyBytes).head);
        connection.wait(std::chrono::seconds(30));
      },
      "stalled");
}

TEST_CASE("http2, hostile 33: streams that are reset in the middle of the body") {
  if (lacks_nginx()) return;
  const TimeLimit limit(10);
  check_refused(cut_answer(kBodyBytes, 10'000), "gave up after");
  // Twice, then whole.
  const Passed twice([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    if (request.number <= 2) return cut_answer(kBodyBytes, 20'000)(request, connection);
    answer_right(request, connection, random_text(kBodyBytes));
  });
  REQUIRE(twice.read.outcome.status.ok());
  CHECK(twice.read.bytes == twice.body.substr(kRange.offset, kRange.bytes));
  CHECK(twice.read.outcome.attempts == 3);
}

TEST_CASE("http2, hostile 34 to 38: replaced, redirected, busy, expired") {
  if (lacks_nginx()) return;
  const TimeLimit limit(15);
  const Passed other([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    CHECK(request.header("if-match") == "\"v1\"");
    answer_right(request, connection, random_text(kBodyBytes), "\"v2\"");
  });
  CHECK(other.read.outcome.replaced);
  CHECK(other.read.bytes.empty());
  CHECK(Passed(status_answer("412 Precondition Failed")).read.outcome.replaced);
  check_refused(fixed_answer("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"),
                "redirected more than 5 times");
  check_refused(fixed_answer("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
                "redirected, not followed");
  check_refused(status_answer("416 Range Not Satisfiable"), "416");
  check_refused(fixed_answer("HTTP/1.1 503 x\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"),
                "to be retried after");
  check_refused(status_answer("403 Forbidden"), "has expired");
}

TEST_CASE("http2: connections that the server closes between requests (GOAWAY)") {
  if (lacks_nginx()) return;
  const NginxServer nginx("keepalive_requests 3;\n");
  const EnvironmentVariable bundle("CURL_CA_BUNDLE", nginx.certificate());
  const std::string body = random_text(2'000'000);
  nginx.put("ctx.kvp", body);
  auto source = open_range_source(nginx.https("/ctx.kvp"), patient_options());
  REQUIRE(source.ok());
  constexpr size_t kPart = 100'000;
  std::vector<std::string> parts(body.size() / kPart);
  for (size_t part = 0; part < parts.size(); ++part) {
    RangeRequest request;
    request.range = {part * kPart, kPart};
    request.on_bytes = [&got = parts[part]](ByteSpan bytes) -> Status {
      got += as_text(bytes);
      return {};
    };
    request.on_done = [](const RangeOutcome& outcome) { CHECK(outcome.status.ok()); };
    (*source)->start(std::move(request));
  }
  while ((*source)->pending() > 0) (*source)->poll(in_seconds(5));
  std::string got;
  for (const std::string& part : parts) got += part;
  CHECK(got == body);
  CHECK((*source)->counters().connections >= parts.size() / 3);
  for (const std::string& line : nginx.log(parts.size() + 1)) CHECK(line.find("HTTP/2.0 206") != std::string::npos);
}

namespace {
// Reads all of `body` through a server that something happens to once a quarter of it has come.
RangeOutcome read_through(NginxServer& nginx, const std::string& body, const std::function<void()>& happens,
                          std::string& got) {
  RangeSourceOptions options = patient_options();
  options.retry.first_delay_s = 0.3;
  options.retry.longest_delay_s = 1;
  options.retry.max_attempts = 8;
  auto source = open_range_source(nginx.https("/ctx.kvp"), options);
  REQUIRE(source.ok());
  std::optional<RangeOutcome> outcome;
  RangeRequest request;
  request.range = {0, body.size()};
  request.on_bytes = [&](ByteSpan bytes) -> Status {
    got += as_text(bytes);
    return {};
  };
  request.on_done = [&](const RangeOutcome& ended) { outcome = ended; };
  (*source)->start(std::move(request));
  while (got.size() < body.size() / 4) (*source)->poll(in_seconds(5));
  happens();
  while (!outcome) (*source)->poll(in_seconds(5));
  return *outcome;
}
}  // namespace

TEST_CASE("http2: nginx killed midway and started again, its file replaced midway") {
  if (lacks_nginx()) return;
  NginxServer nginx("limit_rate 4m;\n");
  const EnvironmentVariable bundle("CURL_CA_BUNDLE", nginx.certificate());
  const std::string body = random_text(4'000'000);
  nginx.put("ctx.kvp", body);
  std::string got;
  const RangeOutcome killed = read_through(
      nginx, body,
      [&] {
        nginx.stop();
        nginx.start();
      },
      got);
  REQUIRE(killed.status.ok());
  CHECK(killed.attempts >= 2);
  CHECK(got == body);

  got.clear();
  const RangeOutcome replaced = read_through(
      nginx, body,
      [&] {
        nginx.put("other", random_text(4'000'001, 2));
        std::filesystem::rename(nginx.www() / "other", nginx.www() / "ctx.kvp");
        nginx.stop();
        nginx.start();
      },
      got);
  CHECK(replaced.replaced);
  CHECK(got == body.substr(0, got.size()));
}

}  // namespace kvpack
