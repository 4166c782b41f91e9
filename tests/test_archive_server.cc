// SPDX-License-Identifier: Apache-2.0
// kvpack serve: the answers that it owes (RFC 9110), nothing outside its folder, the token, stopping.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "archive_samples.h"
#include "net/archive_server.h"
#include "net/conditional_request.h"
#include "net/range_response.h"
#include "range_reads.h"

namespace kvpack {
namespace {

// A running server with a folder of its own.
class Served {
 public:
  explicit Served(const std::string& token = "") {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("kvpack-serve-{}", ::getpid());
    std::filesystem::create_directories(folder_ / "www" / "sub");
    ServerOptions options;
    options.folder = folder_ / "www";
    options.port = 0;
    options.token = token;
    auto created = ArchiveServer::create(options);
    REQUIRE_MESSAGE(created.ok(), (created.ok() ? "" : created.error().message));
    server_ = std::move(created).value();
    thread_ = std::thread([this] { CHECK(server_->run().ok()); });
  }
  ~Served() {
    server_->stop();
    thread_.join();
    std::filesystem::remove_all(folder_);
  }
  void put(const std::string& name, std::string_view content) const {
    std::ofstream(www() / name, std::ios::binary) << content;
  }
  std::filesystem::path www() const { return folder_ / "www"; }
  std::string url(const std::string& path) const { return fmt::format("http://127.0.0.1:{}{}", server_->port(), path); }
  HttpResponse get(const std::string& path, std::vector<std::string> headers = {}, const std::string& method = "GET") {
    HttpRequest request;
    request.method = method;
    request.url = url(path);
    request.headers = std::move(headers);
    auto client = HttpClient::create({});
    auto response = exchange(**client, request, 64 << 20);
    REQUIRE_MESSAGE(response.ok(), (response.ok() ? "" : response.error().message));
    return std::move(response).value();
  }

 private:
  std::filesystem::path folder_;
  std::unique_ptr<ArchiveServer> server_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("conditional requests: preconditions, then ranges") {
  const std::string etag = "\"v1\"";
  const auto status = [&](ConditionalHeaders headers) { return answer_for_file(headers, 100, etag).status; };
  CHECK(status({}) == 200);
  CHECK(status({"\"v1\"", "", "", "bytes=0-9"}) == 206);
  CHECK(status({"\"v0\", \"v1\"", "", "", ""}) == 200);
  CHECK(status({"*", "", "", ""}) == 200);
  CHECK(status({"\"v2\"", "", "", "bytes=0-9"}) == 412);
  CHECK(status({"W/\"v1\"", "", "", ""}) == 412);  // strong comparison
  CHECK(status({"nonsense", "", "", ""}) == 412);
  CHECK(status({"", "W/\"v1\"", "", ""}) == 304);
  CHECK(status({"", "\"v2\"", "", ""}) == 200);
  CHECK(status({"", "", "\"v1\"", "bytes=0-9"}) == 206);
  CHECK(status({"", "", "\"v2\"", "bytes=0-9"}) == 200);
  CHECK(status({"", "", "W/\"v1\"", "bytes=0-9"}) == 200);

  const auto range = [&](const char* text) {
    const FileAnswer answer = answer_for_file({"", "", "", text}, 100, etag);
    return fmt::format("{} {}+{} {}", answer.status, answer.first, answer.bytes, answer.content_range);
  };
  CHECK(range("bytes=0-9") == "206 0+10 bytes 0-9/100");
  CHECK(range("bytes=90-1000") == "206 90+10 bytes 90-99/100");
  CHECK(range("bytes=99-") == "206 99+1 bytes 99-99/100");
  CHECK(range("bytes=-1000") == "206 0+100 bytes 0-99/100");
  CHECK(range("bytes=100-") == "416 0+0 bytes */100");
  CHECK(range("bytes=-0") == "416 0+0 bytes */100");
  for (const char* whole : {"bytes=9-0", "bytes=0-1,3-4", "bytes=", "bytes=-", "items=0-9", "bytes=a-b",
                            "bytes=0-99999999999999999999", "bytes=99999999999999999999-"}) {
    CAPTURE(whole);
    CHECK(range(whole) == "200 0+100 ");
  }
  CHECK(answer_for_file({"", "", "", "bytes=0-"}, 0, etag).status == 416);
}

TEST_CASE("serve: an archive is opened with one request and read by ranges") {
  Served served;
  const SampleArchive sample = random_archive(11);
  served.put("ctx.kvp", as_text(sample.file));
  const auto source = open_range_source(served.url("/ctx.kvp"), quick_options());
  REQUIRE_MESSAGE(source.ok(), (source.ok() ? "" : source.error().message));
  CHECK(is_strong_etag((*source)->etag()));
  RangeByteSource bytes(**source);
  const auto reader = ArchiveReader::open(bytes);
  REQUIRE(reader.ok());
  CHECK((*source)->counters().requests == 1);
  CHECK(reader->verify().ok());
}

TEST_CASE("serve: ETags follow the content") {
  Served served;
  const std::string body = random_text(3'000'000);
  served.put("a.kvp", body);
  served.put("b.kvp", body);
  const std::string etag(*served.get("/a.kvp").head.field("etag"));
  CHECK(served.get("/b.kvp").head.field("etag") == etag);
  served.put("b.kvp", body.substr(1) + body.front());
  CHECK(served.get("/b.kvp").head.field("etag") != etag);
  CHECK(served.get("/a.kvp").body == body);
  CHECK(served.get("/a.kvp", {"If-None-Match: " + etag}).head.status == 304);
  CHECK(served.get("/a.kvp", {"If-Match: \"other\""}).head.status == 412);
  const HttpResponse part = served.get("/a.kvp", {"If-Match: " + etag, "Range: bytes=1000000-1999999"});
  CHECK(part.head.status == 206);
  CHECK(part.body == body.substr(1'000'000, 1'000'000));
  CHECK(served.get("/a.kvp", {"Range: bytes=0-9,20-29"}).head.status == 200);
  CHECK(served.get("/a.kvp", {"Range: bytes=3000000-"}).head.status == 416);
  const HttpResponse head = served.get("/a.kvp", {}, "HEAD");
  CHECK(head.head.field("content-length") == "3000000");
  CHECK(head.body.empty());
  served.put("empty", "");
  CHECK(served.get("/empty").head.status == 200);
}

TEST_CASE("serve: nothing outside the folder, nothing hidden, no links, no writing") {
  Served served;
  served.put("ctx.kvp", "x");
  served.put(".hidden", "x");
  std::ofstream(served.www().parent_path() / "outside") << "secret";
  std::filesystem::create_symlink("../outside", served.www() / "file-link");
  std::filesystem::create_directory_symlink("..", served.www() / "folder-link");
  std::filesystem::create_symlink("ctx.kvp", served.www() / "inner-link");
  CHECK(::mkfifo((served.www() / "fifo").c_str(), 0600) == 0);
  for (const char* path : {"/.hidden", "/file-link", "/folder-link/outside", "/folder-link/", "/inner-link", "/fifo",
                           "/%2e%2e/outside", "/sub/%2e%2e/ctx.kvp", "/..%2foutside", "/%2Fetc/passwd", "//etc/passwd",
                           "/ctx.kvp/x", "/ctx.kvp%00.txt", "/none"}) {
    CAPTURE(path);
    const HttpResponse response = served.get(path);
    CHECK(response.head.status == 404);
    CHECK(response.body.empty());
  }
  for (const char* method : {"PUT", "DELETE", "POST"}) {
    CHECK(served.get("/new", {"Content-Length: 0"}, method).head.status >= 400);
  }
  CHECK(!std::filesystem::exists(served.www() / "new"));
}

TEST_CASE("serve: listings and metrics") {
  Served served;
  served.put("<b>&\"'.kvp", "12345");
  served.put(".hidden", "x");
  std::filesystem::create_symlink("/etc", served.www() / "link");
  const HttpResponse page = served.get("/");
  CHECK(page.body.find("<a href=\"%3Cb%3E%26%22%27.kvp\">&#60;b&#62;&#38;&#34;&#39;.kvp</a>") != std::string::npos);
  CHECK(page.body.find("href=\"sub/\"") != std::string::npos);
  CHECK(page.body.find("hidden") == std::string::npos);
  CHECK(page.body.find("link") == std::string::npos);
  CHECK(served.get("/%3Cb%3E%26%22%27.kvp").body == "12345");
  const HttpResponse json = served.get("/", {"Accept: application/json"});
  CHECK(json.body.find("\"bytes\": 5") != std::string::npos);
  CHECK(served.get("/sub").body == served.get("/sub/").body);  // redirected
  served.get("/none");
  const std::string metrics = served.get("/metrics").body;
  CHECK(metrics.find("kvpack_http_requests_total{code=\"404\"} 1\n") != std::string::npos);
  CHECK(metrics.find("kvpack_sent_bytes_total 5\n") != std::string::npos);
}

TEST_CASE("serve: with a token, everything asks for it") {
  Served served("right token");
  served.put("ctx.kvp", "12345");
  for (const char* path : {"/", "/ctx.kvp", "/none", "/metrics", "/sub"}) {
    CAPTURE(path);
    CHECK(served.get(path).head.status == 401);
    CHECK(served.get(path, {"Authorization: Bearer right toke"}).head.status == 401);
    CHECK(served.get(path, {"Authorization: Bearer right token2"}).head.status == 401);
    CHECK(served.get(path, {"Authorization: Basic right token"}).head.status == 401);
  }
  CHECK(served.get("/ctx.kvp", {"Authorization: Bearer right token"}).body == "12345");
  RangeSourceOptions options = quick_options();
  options.http.bearer_token = "right token";
  CHECK(open_range_source(served.url("/ctx.kvp"), options).ok());
}

TEST_CASE("serve: a port in use and a folder that is none are io errors") {
  Served served;
  ServerOptions options;
  options.folder = served.www();
  options.port = std::stoi(served.url("").substr(served.url("").rfind(':') + 1));
  CHECK(ArchiveServer::create(options).error().kind == ErrorKind::kIo);
  options.bind = "192.0.2.1";  // no address of this machine
  CHECK(ArchiveServer::create(options).error().kind == ErrorKind::kIo);
  options.folder = "/nonexistent";
  CHECK(ArchiveServer::create(options).error().kind == ErrorKind::kIo);
}

}  // namespace kvpack
