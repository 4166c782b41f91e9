// SPDX-License-Identifier: Apache-2.0
// S3 signatures against AWS's published examples, locations, credentials.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "environment_variable.h"
#include "net/s3_signature.h"

namespace kvpack {
namespace {

// "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)", Amazon S3 API Reference, section
// "Examples: Signature Calculations".
const S3Credentials kExample = {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""};

std::string example_signature(const std::string& method, const std::string& target,
                              std::vector<std::pair<std::string, std::string>> headers, const std::string& payload) {
  S3SignedRequest request;
  request.method = method;
  request.url = parse_url("https://examplebucket.s3.amazonaws.com" + target).value();
  request.headers = std::move(headers);
  request.headers.emplace_back("x-amz-content-sha256", payload);
  request.headers.emplace_back("x-amz-date", "20130524T000000Z");
  request.payload_sha256 = payload;
  request.timestamp = "20130524T000000Z";
  return s3_authorization(request, kExample, "us-east-1");
}

std::string resolved(const std::string& location, const S3Options& options) {
  const auto s3 = resolve_s3(location, options);
  return s3.ok() ? s3->url : s3.error().message;
}

}  // namespace

TEST_CASE("S3 signatures equal AWS's published examples") {
  CHECK(example_signature("GET", "/test.txt", {{"range", "bytes=0-9"}}, kEmptySha256) ==
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  const std::string payload = sha256_hex(as_byte_span("Welcome to Amazon S3."));
  CHECK(payload == "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
  CHECK(example_signature("PUT", "/test%24file.text",
                          {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                          payload)
            .ends_with("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
  CHECK(example_signature("GET", "/?lifecycle", {}, kEmptySha256)
            .ends_with("Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
  CHECK(example_signature("GET", "/?max-keys=2&prefix=J", {}, kEmptySha256)
            .ends_with("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
  // The order in which parameters are sent does not matter.
  CHECK(example_signature("GET", "/?prefix=J&max-keys=2", {}, kEmptySha256)
            .ends_with("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
  CHECK(sha256_hex({}) == kEmptySha256);
}

TEST_CASE("S3 locations become URLs") {
  const EnvironmentVariable endpoint("AWS_ENDPOINT_URL", "");
  const EnvironmentVariable endpoint_s3("AWS_ENDPOINT_URL_S3", "");
  const EnvironmentVariable key("AWS_ACCESS_KEY_ID", "id");
  const EnvironmentVariable secret("AWS_SECRET_ACCESS_KEY", "secret");
  const EnvironmentVariable profile("AWS_PROFILE", "");
  const EnvironmentVariable region("AWS_REGION", "eu-west-1");
  S3Options options;
  CHECK(resolved("s3://bucket/a b/ctx+1.kvp", options) ==
        "https://bucket.s3.eu-west-1.amazonaws.com/a%20b/ctx%2B1.kvp");
  CHECK(resolved("s3://dotted.bucket/x", options) == "https://s3.eu-west-1.amazonaws.com/dotted.bucket/x");
  options.endpoint = "http://127.0.0.1:9000";
  CHECK(resolved("s3://bucket/x", options) == "http://127.0.0.1:9000/bucket/x");
  options.addressing = S3Addressing::kVirtualHost;
  CHECK(resolved("s3://bucket/x", options) == "http://bucket.127.0.0.1:9000/x");
  options.endpoint = "";
  options.addressing = S3Addressing::kPath;
  CHECK(resolved("s3://bucket/x", options) == "https://s3.eu-west-1.amazonaws.com/bucket/x");
  for (const char* bad : {"s3://bucket", "s3://bucket/", "s3:///x", "s3://buc ket/x", "s3://b/../x", "s3://b/x/."}) {
    CAPTURE(bad);
    CHECK(resolve_s3(bad, options).error().kind == ErrorKind::kInvalidArgument);
  }
  options.endpoint = "ftp://host";
  CHECK(resolved("s3://bucket/x", options).find("S3 endpoint") == 0);
  options.endpoint = "https://host/path";
  CHECK(resolved("s3://bucket/x", options).find("expected only") != std::string::npos);
}

TEST_CASE("S3 credentials: environment, then the profile") {
  const auto folder = std::filesystem::temp_directory_path() / "kvpack-test-aws";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "credentials") << "# comment\n[default]\naws_access_key_id = D\naws_secret_access_key=DS\n"
                                           "[work]\r\n aws_access_key_id=W \naws_secret_access_key = WS\n"
                                           "aws_session_token = WT\n[half]\naws_access_key_id=H\n";
  std::ofstream(folder / "config") << "[default]\nregion = eu-north-1\n[profile work]\nregion=eu-west-3\n";
  const EnvironmentVariable credentials_file("AWS_SHARED_CREDENTIALS_FILE", (folder / "credentials").string());
  const EnvironmentVariable config_file("AWS_CONFIG_FILE", (folder / "config").string());
  const EnvironmentVariable region("AWS_REGION", ""), default_region("AWS_DEFAULT_REGION", "");
  const EnvironmentVariable secret("AWS_SECRET_ACCESS_KEY", "S"), token("AWS_SESSION_TOKEN", "");
  {
    const EnvironmentVariable key("AWS_ACCESS_KEY_ID", "E"), profile("AWS_PROFILE", "");
    CHECK(read_s3_environment("")->credentials.access_key == "E");
    CHECK(read_s3_environment("")->region == "eu-north-1");
    CHECK(read_s3_environment("work")->credentials.session_token == "WT");
    CHECK(read_s3_environment("work")->region == "eu-west-3");
    CHECK(read_s3_environment("none").error().message.find("no AWS profile 'none'") == 0);
    CHECK(!read_s3_environment("half").ok());
  }
  const EnvironmentVariable key("AWS_ACCESS_KEY_ID", "");
  {
    const EnvironmentVariable profile("AWS_PROFILE", "");
    CHECK(read_s3_environment("")->credentials.access_key == "D");
  }
  const EnvironmentVariable profile("AWS_PROFILE", "work");
  CHECK(read_s3_environment("")->credentials.secret_key == "WS");
  std::filesystem::remove_all(folder);
}

}  // namespace kvpack
