// SPDX-License-Identifier: Apache-2.0
// What misbehaving servers do to a range request, numbered as in the project's list of hostile inputs (25 to 38). Each
// must end in one clear network error, in bounded time, with no wrong byte accepted.
#include <doctest/doctest.h>

#include "range_reads.h"
#include "scripted_replies.h"

namespace kvpack {
namespace {

constexpr uint64_t kBodyBytes = 300'000;

// Opens at a server that answers the first request right and all others with `later`; reads one range there.
struct Opened {
  explicit Opened(Reply later, RangeSourceOptions options = quick_options())
      : body(random_text(kBodyBytes)), server([this, later](const ScriptedRequest& request, auto& connection) {
          if (request.number == 0) return answer_right(request, connection, body);
          later(request, connection);
        }) {
    auto opened = open_range_source(server.url(), options);
    REQUIRE_MESSAGE(opened.ok(), (opened.ok() ? "" : opened.error().message));
    source = std::move(opened).value();
    REQUIRE(server.requests() == 1);
  }
  ReadRange read(NetTime deadline = kNever) { return read_range(*source, {100'000, 50'000}, deadline); }

  std::string body;
  ScriptedServer server;
  std::unique_ptr<RangeSource> source;
};

// The error of opening at a server that answers every request with `reply`.
Error opening_error(Reply reply, RangeSourceOptions options = quick_options()) {
  ScriptedServer server(std::move(reply));
  const auto opened = open_range_source(server.url(), options);
  REQUIRE(!opened.ok());
  CHECK(opened.error().kind == ErrorKind::kNetwork);
  CHECK(server.sent_bytes() < 16 << 20);  // socket buffers included
  return opened.error();
}

void check_error(const ReadRange& read, std::string_view expected, size_t accepted_bytes = 0) {
  REQUIRE(!read.outcome.status.ok());
  CHECK(read.outcome.status.error().kind == ErrorKind::kNetwork);
  INFO(read.outcome.status.error().message);
  CHECK(read.outcome.status.error().message.find(expected) != std::string::npos);
  CHECK(read.bytes.size() == accepted_bytes);
}

void check_message(const Error& error, std::string_view expected) {
  INFO(error.message);
  CHECK(error.message.find(expected) != std::string::npos);
}

}  // namespace

TEST_CASE("hostile 25: a 200 with the whole body for a range request") {
  const TimeLimit limit(2);
  const std::string body = random_text(kBodyBytes);
  const Reply whole = fixed_answer(fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.size()) + body);
  check_message(opening_error(whole), "does not support ranges");
  Opened opened(whole);
  check_error(opened.read(), "does not support ranges");
  CHECK(opened.server.requests() == 2);  // no retry: it would be the same
}

TEST_CASE("hostile 26: a 206 with another range, or longer") {
  const TimeLimit limit(3);
  check_error(
      Opened(edited_answer(kBodyBytes, [](std::string& head) { replace_once(head, "bytes 100000-", "bytes 100001-"); }))
          .read(),
      "got range bytes 100001-149999/300000, asked for bytes=100000-149999");
  check_error(
      Opened(edited_answer(kBodyBytes, [](std::string& head) { replace_once(head, "-149999", "-150000"); })).read(),
      "got range");
  check_error(
      Opened(edited_answer(kBodyBytes, [](std::string& head) { replace_once(head, "Length: 50000", "Length: 60000"); }))
          .read(),
      "Content-Length 60000 for a range of 50000 bytes");
  check_error(Opened(edited_answer(kBodyBytes,
                                   [](std::string& head) { replace_once(head, "bytes 100000-149999/300000", "0-1"); }))
                  .read(),
              "Content-Range");
  check_error(Opened(edited_answer(kBodyBytes, [](std::string& head) { replace_once(head, "/300000", "/*"); })).read(),
              "does not tell the size");
  check_error(
      Opened(edited_answer(kBodyBytes, [](std::string& head) { replace_once(head, "Content-Range", "X-Range"); }))
          .read(),
      "0 Content-Range headers");
  // Chunked: no Content-Length gives the surplus away, so the bytes are counted.
  Opened chunked([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    RightAnswer right = right_answer(request, kBodyBytes);
    replace_once(right.head, "Content-Length: 50000", "Transfer-Encoding: chunked");
    connection.send(right.head + "c351\r\n" + std::string(50'001, 'x') + "\r\n0\r\n\r\n");
  });
  const ReadRange longer = chunked.read();
  CHECK(!longer.outcome.status.ok());
  CHECK(longer.bytes.size() <= 50'000);
  check_message(longer.outcome.status.error(), "longer than the range");
}

TEST_CASE("hostile 27: a short but consistent 206") {
  const TimeLimit limit(2);
  Opened opened([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    ScriptedRequest less = request;
    less.headers["range"] = "bytes=100000-139999";
    answer_right(less, connection, random_text(kBodyBytes));
  });
  check_error(opened.read(), "got range bytes 100000-139999/300000");
  // When opening, only the archive's end makes a range shorter.
  check_message(opening_error(fixed_answer("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/300000\r\n"
                                           "Content-Length: 10\r\n\r\n0123456789")),
                "got range bytes 0-9/300000");
}

TEST_CASE("hostile 28: unsolicited gzip or multipart") {
  const TimeLimit limit(2);
  check_error(
      Opened(edited_answer(kBodyBytes,
                           [](std::string& head) { replace_once(head, "ETag", "Content-Encoding: gzip\r\nETag"); }))
          .read(),
      "encoded the range (gzip)");
  check_error(Opened(edited_answer(kBodyBytes,
                                   [](std::string& head) {
                                     replace_once(head, "ETag",
                                                  "Content-Type: multipart/byteranges; boundary=x\r\nETag");
                                   }))
                  .read(),
              "multipart");
  CHECK(
      Opened(edited_answer(kBodyBytes,
                           [](std::string& head) { replace_once(head, "ETag", "Content-Encoding: identity\r\nETag"); }))
          .read()
          .outcome.status.ok());
}

TEST_CASE("hostile 29: Content-Length overflowing, negative, twice") {
  const TimeLimit limit(3);
  for (const char* length : {"99999999999999999999999999", "-50000", "50000, 50000", "0x10", ""}) {
    CAPTURE(length);
    const ReadRange read = Opened(edited_answer(kBodyBytes, [length](std::string& head) {
                             replace_once(head, "Content-Length: 50000", std::string("Content-Length: ") + length);
                           })).read();
    CHECK(!read.outcome.status.ok());
    CHECK(read.bytes.empty());
  }
  check_error(Opened(edited_answer(kBodyBytes,
                                   [](std::string& head) {
                                     replace_once(head, "Content-Length: 50000",
                                                  "Content-Length: 50000\r\nContent-Length: 49999");
                                   }))
                  .read(),
              "two different Content-Lengths");
}

TEST_CASE("hostile 30: endless headers or body") {
  const TimeLimit limit(6);
  const Reply endless_headers = [](const ScriptedRequest&, ScriptedServer::Connection& connection) {
    connection.send("HTTP/1.1 206 Partial Content\r\n");
    while (connection.send("X-More: " + std::string(1000, 'x') + "\r\n")) continue;
  };
  check_message(opening_error(endless_headers), "longer than 64 KiB");
  const Reply endless_interim = [](const ScriptedRequest&, ScriptedServer::Connection& connection) {
    while (connection.send("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")) continue;
  };
  check_message(opening_error(endless_interim), "longer than 64 KiB");
  const Reply endless_body = [](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    RightAnswer right = right_answer(request, kBodyBytes);
    right.head.replace(right.head.find("Content-Length"), right.head.find("ETag") - right.head.find("Content-Length"),
                       "");
    connection.send(right.head);
    while (connection.send(std::string(10'000, 'x'))) continue;
  };
  check_message(opening_error(endless_body), "longer than the range");
  const Reply endless_error = [](const ScriptedRequest&, ScriptedServer::Connection& connection) {
    connection.send("HTTP/1.1 404 Not Found\r\n\r\n");
    while (connection.send(std::string(10'000, 'x'))) continue;
  };
  check_message(opening_error(endless_error), "404 Not Found");
}

TEST_CASE("hostile 31: a slow drip just above the stall limit") {
  {  // 2 KB/s against a limit of 256 B/s: not stalled, but the budget of the range ends it.
    const TimeLimit limit(4.5);
    Opened opened(dripping_answer(kBodyBytes, 100));
    const ReadRange read = opened.read();
    CHECK(read.bytes.size() < 50'000);
    check_message(read.outcome.status.error(), "deadline passed");
    CHECK(read.outcome.status.error().kind == ErrorKind::kNetwork);
  }
  const TimeLimit limit(1.5);  // with a deadline, that is the limit
  Opened opened(dripping_answer(kBodyBytes, 100));
  const ReadRange read = opened.read(in_seconds(1));
  check_message(read.outcome.status.error(), "deadline passed");
}

TEST_CASE("hostile 32: a stall after the headers") {
  const TimeLimit limit(4);
  Opened opened([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    connection.send(right_answer(request, kBodyBytes).head);
    connection.wait(std::chrono::seconds(30));
  });
  check_error(opened.read(), "stalled");
  CHECK(opened.server.requests() == 1 + 3);  // each attempt of three
  // And before them.
  check_message(opening_error([](const ScriptedRequest&, ScriptedServer::Connection& connection) {
                  connection.wait(std::chrono::seconds(30));
                }),
                "stalled");
}

TEST_CASE("hostile 33: the connection cut in the middle of the body") {
  const TimeLimit limit(3);
  Opened never_whole(cut_answer(kBodyBytes, 10'000));
  check_error(never_whole.read(), "gave up after 3 attempts", 30'000);

  // Cut twice, then whole: every byte once, and only the rest asked for again.
  Opened twice(cut_answer(kBodyBytes, 20'000));
  const ReadRange read = twice.read();
  REQUIRE(read.outcome.status.ok());
  CHECK(read.bytes == twice.body.substr(100'000, 50'000));
  CHECK(read.outcome.attempts == 3);
  CHECK(twice.server.log().at(2).header("range") == "bytes=120000-149999");
  CHECK(twice.server.log().at(3).header("range") == "bytes=140000-149999");
}

TEST_CASE("hostile 34: the ETag changing midway, or differing per replica") {
  const TimeLimit limit(2);
  Opened other([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    CHECK(request.header("if-match") == "\"v1\"");
    answer_right(request, connection, random_text(kBodyBytes), "\"v2\"");
  });
  const ReadRange read = other.read();
  check_error(read, "the archive was replaced meanwhile: ETag \"v2\", was \"v1\"");
  CHECK(read.outcome.replaced);
  CHECK(other.server.requests() == 2);

  Opened precondition(fixed_answer("HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"));
  CHECK(precondition.read().outcome.replaced);
  Opened longer([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    answer_right(request, connection, random_text(kBodyBytes + 1));
  });
  CHECK(longer.read().outcome.replaced);
  Opened shorter(
      fixed_answer("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */100\r\nContent-Length: 0\r\n\r\n"));
  CHECK(shorter.read().outcome.replaced);
  Opened unnamed(edited_answer(kBodyBytes, [](std::string& head) { replace_once(head, "ETag: \"v1\"\r\n", ""); }));
  check_error(unnamed.read(), "without the ETag");
}

TEST_CASE("hostile 35: redirect loop, file:, another host with credentials") {
  const TimeLimit limit(3);
  const auto redirect_to = [](const std::string& location) {
    return fixed_answer("HTTP/1.1 302 Found\r\nLocation: " + location + "\r\nContent-Length: 0\r\n\r\n");
  };
  check_message(opening_error(redirect_to("/again")), "redirected more than 5 times");
  check_message(opening_error(redirect_to("file:///etc/passwd")), "redirected, not followed");
  check_message(opening_error(redirect_to("ftp://127.0.0.1/x")), "redirected, not followed");
  check_message(opening_error(redirect_to("http://user:secret@127.0.0.1/x")), "credentials in a URL");
  check_message(opening_error(redirect_to("//")), "redirected");
  // https to http needs a TLS server: test_nginx.cc.

  const std::string body = random_text(kBodyBytes);
  ScriptedServer elsewhere(
      [&](const ScriptedRequest& request, auto& connection) { answer_right(request, connection, body); });
  ScriptedServer here([&](const ScriptedRequest&, auto& connection) {
    connection.send("HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: " + elsewhere.url("/x") +
                    "\r\n\r\n");
  });
  RangeSourceOptions options = quick_options();
  options.http.bearer_token = "secret";
  options.http.headers = {"X-Auth-Token: secret"};
  auto source = open_range_source(here.url(), options);
  REQUIRE(source.ok());
  const ReadRange read = read_range(**source, {100'000, 50'000});
  CHECK(read.bytes == body.substr(100'000, 50'000));
  REQUIRE(here.log().size() == 1);  // later ranges go where the first one led
  CHECK(here.log()[0].header("authorization") == "Bearer secret");
  CHECK(here.log()[0].header("x-auth-token") == "secret");
  REQUIRE(elsewhere.log().size() == 2);
  for (const ScriptedRequest& request : elsewhere.log()) {
    CHECK(request.header("authorization").empty());
    CHECK(request.header("x-auth-token").empty());
  }
}

TEST_CASE("hostile 36: a captive portal's HTML with 200") {
  const TimeLimit limit(2);
  const Reply portal =
      fixed_answer("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 5\r\n\r\nlogin");
  check_message(opening_error(portal), "captive portal");
  check_error(Opened(portal).read(), "captive portal");
}

TEST_CASE("hostile 37: 416, 429 and 503 with an absurd Retry-After") {
  const TimeLimit limit(4);
  Opened out_of_range(fixed_answer("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n"));
  check_error(out_of_range.read(), "416 Range Not Satisfiable");
  for (const char* after : {"86400", "99999999999999999999999", "Fri, 01 Jan 2100 00:00:00 GMT"}) {
    for (const int status : {429, 503}) {
      Opened busy(
          fixed_answer(fmt::format("HTTP/1.1 {} x\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n", status, after)));
      check_error(busy.read(), "to be retried after");
      CHECK(busy.server.requests() == 2);  // asked once, not again
    }
  }
  // Nonsense is as good as none: tried again after our own delay.
  Opened nonsense(fixed_answer("HTTP/1.1 503 x\r\nRetry-After: -5\r\nContent-Length: 0\r\n\r\n"));
  check_error(nonsense.read(), "gave up after 3 attempts");
  // A wait that fits is kept.
  Opened once([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    if (request.number == 1) {
      connection.send("HTTP/1.1 429 x\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    } else {
      answer_right(request, connection, random_text(kBodyBytes));
    }
  });
  const NetTime start = NetClock::now();
  CHECK(once.read().outcome.status.ok());
  CHECK(NetClock::now() - start >= std::chrono::seconds(1));
  // One that does not fit before the deadline ends at once.
  Opened late(fixed_answer("HTTP/1.1 503 x\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"));
  const TimeLimit at_once(0.5);
  check_error(late.read(in_seconds(1)), "to be retried after 2 s");
}

TEST_CASE("hostile 38: a 403 midway (an expired signature)") {
  const TimeLimit limit(2);
  Opened opened(fixed_answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"));
  check_error(opened.read(), "has expired");
  CHECK(opened.server.requests() == 2);

  // Where the signature came with a redirect, asking the original URL again brings a fresh one.
  const std::string body = random_text(kBodyBytes);
  ScriptedServer store([&](const ScriptedRequest& request, auto& connection) {
    if (request.number > 0 && request.target == "/x?signature=0") {
      connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    } else {
      answer_right(request, connection, body);
    }
  });
  ScriptedServer hub([&](const ScriptedRequest& request, auto& connection) {
    connection.send(fmt::format("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {}?signature={}\r\n\r\n",
                                store.url("/x"), request.number));
  });
  auto source = open_range_source(hub.url(), quick_options());
  REQUIRE(source.ok());
  const ReadRange read = read_range(**source, {100'000, 50'000});
  REQUIRE(read.outcome.status.ok());
  CHECK(read.bytes == body.substr(100'000, 50'000));
  CHECK(hub.requests() == 2);
  CHECK(store.requests() == 3);
}

}  // namespace kvpack
