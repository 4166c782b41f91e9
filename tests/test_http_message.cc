// SPDX-License-Identifier: Apache-2.0
// The pure parts of the transport: heads, URLs, retries.
#include <doctest/doctest.h>

#include "net/http_message.h"
#include "net/retry.h"
#include "net/url.h"

namespace kvpack {

TEST_CASE("heads: status lines, fields, ranges") {
  CHECK(parse_status_line("HTTP/1.1 206 Partial Content") == 206);
  CHECK(parse_status_line("HTTP/2 206 ") == 206);
  for (const char* bad : {"", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20", "HTTP/1.1 abc", "HTTP/1.1 099 x", "ICY 200 OK"}) {
    CAPTURE(bad);
    CHECK(!parse_status_line(bad));
  }
  CHECK(parse_field("ETag:  \"x y\" \r\n")->first == "etag");
  CHECK(parse_field("ETag:  \"x y\" \r\n")->second == "\"x y\"");
  CHECK(!parse_field(" folded: x"));
  CHECK(!parse_field(": x"));
  CHECK(!parse_field("no colon"));

  const auto range = parse_content_range("bytes 5-9/100");
  REQUIRE(range);
  CHECK(range->first == 5);
  CHECK(range->last == 9);
  CHECK(range->total == 100u);
  CHECK(!parse_content_range("bytes 5-9/*")->total);
  CHECK(parse_content_range("bytes */100")->total == 100u);
  for (const char* bad : {"", "bytes", "5-9/100", "bytes 9-5/100", "bytes -5-9/100", "bytes 5-9", "bytes 5-9/x",
                          "bytes 5/9-100", "bytes 5-18446744073709551616/1", "bytes=5-9/100"}) {
    CAPTURE(bad);
    CHECK(!parse_content_range(bad));
  }
  CHECK(is_strong_etag("\"\""));
  CHECK(!is_strong_etag("W/\"x\""));
  CHECK(!is_strong_etag("\""));
  CHECK(!is_strong_etag("\"a\"b\""));
}

TEST_CASE("heads: Retry-After") {
  CHECK(parse_retry_after("120", 0) == 120);
  CHECK(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784111777 - 60) == 60);
  CHECK(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784111777 + 60) == 0);
  CHECK(*parse_retry_after("99999999999999999999999999", 0) > 1e9);
  CHECK(!parse_retry_after("-5", 0));
  CHECK(!parse_retry_after("soon", 0));
  CHECK(!parse_retry_after("", 0));
}

TEST_CASE("heads line by line: interim responses are passed over, trailers dropped, all of it bounded") {
  HeadParser parser;
  for (const char* line : {"HTTP/1.1 103 Early Hints\r\n", "Link: <x>\r\n", "\r\n", "HTTP/1.1 206 x\r\n", "A: 1\r\n"}) {
    CHECK(parser.add(line).value() == false);
  }
  CHECK(parser.add("\r\n").value() == true);
  CHECK(parser.add("Trailer: 1\r\n").value() == true);
  CHECK(parser.head().status == 206);
  CHECK(parser.head().fields.size() == 1);
  const std::string long_line = "A: " + std::string(1000, 'x') + "\r\n";
  for (int i = 0; i < 65; ++i) CHECK(parser.add(long_line).ok());
  CHECK(!parser.add(long_line).ok());
}

TEST_CASE("URLs: parts, what is refused, what is printed") {
  const auto url = parse_url("HTTPS://Host.Example:8443/a%20b?q=1#f");
  REQUIRE(url.ok());
  CHECK(origin_of(*url) == "https://host.example:8443");
  CHECK(url->path == "/a%20b");
  CHECK(url->query == "q=1");
  CHECK(origin_of(*parse_url("https://host:443/")) == "https://host");
  CHECK(origin_of(*parse_url("http://[::1]:80/")) == "http://[::1]");
  for (const char* bad : {"", "ftp://host/", "file:///etc/passwd", "http://", "http://user@host/", "http://u:p@host/",
                          "http://host:99999/", "host/ctx.kvp"}) {
    CAPTURE(bad);
    CHECK(!parse_url(bad).ok());
  }
  CHECK(printable_url("https://host/x?X-Amz-Signature=secret") == "https://host/x");
  CHECK(printable_url("https://user:secret@host/x") == "https://host/x");
  CHECK(percent_encode("a/b c~", true) == "a/b%20c~");
  CHECK(percent_encode("a/\xc3\xa9") == "a%2F%C3%A9");
  CHECK(percent_decode("a%2Fb") == "a/b");
  for (const char* bad : {"%", "%2", "%2g", "%-1", "x%"}) CHECK(!percent_decode(bad));
  CHECK(!check_redirect(*parse_url("https://a/"), *parse_url("http://a/")).ok());
  CHECK(check_redirect(*parse_url("http://a/"), *parse_url("https://b/")).ok());
  CHECK(is_same_host(*parse_url("http://a/x"), *parse_url("http://A:80/y")));
  CHECK(!is_same_host(*parse_url("http://a/"), *parse_url("http://a:81/")));
}

TEST_CASE("retries: full jitter under a doubling ceiling, within deadline and budget") {
  RetryOptions options;
  options.first_delay_s = 1;
  options.longest_delay_s = 4;
  options.max_attempts = 5;
  const NetTime now = NetTime{} + std::chrono::hours(1);
  const auto seconds = [now](NetTime time) { return std::chrono::duration<double>(time - now).count(); };
  double sums[4] = {};
  constexpr int kRuns = 2000;
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    RetrySchedule schedule(options, 0, now, kNever, seed);
    for (double& sum : sums) {
      const double delay = seconds(*schedule.next(now, false, {}));
      CHECK(delay >= 0);
      sum += delay;
    }
    CHECK(!schedule.next(now, false, {}));
  }
  const double ceilings[4] = {1, 2, 4, 4};
  for (int i = 0; i < 4; ++i) CHECK(sums[i] / kRuns == doctest::Approx(ceilings[i] / 2).epsilon(0.05));

  RetrySchedule progressing(options, 0, now, kNever, 1);
  for (int i = 0; i < 100; ++i) CHECK(progressing.next(now, true, {}));
  RetrySchedule waits(options, 0, now, kNever, 1);
  CHECK(seconds(*waits.next(now, false, 10)) >= 10);
  CHECK(!waits.next(now, false, options.longest_retry_after_s + 1));
  RetrySchedule late(options, 0, now, now + std::chrono::seconds(5), 1);
  CHECK(!late.next(now, false, 5));
  CHECK(seconds(late.give_up_at()) == doctest::Approx(5));
  CHECK(seconds(RetrySchedule(options, 1024 * 100, now, kNever, 1).give_up_at()) == doctest::Approx(160));
}

}  // namespace kvpack
