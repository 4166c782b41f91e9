// SPDX-License-Identifier: Apache-2.0
// safetensors in and out, and its official safety rules (github.com/huggingface/safetensors, README, "Format").
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstring>

#include "formats/half.h"
#include "formats/safetensors_header.h"
#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

Bytes file_of(std::string_view header, size_t data_bytes) {
  ByteWriter writer;
  writer.write(uint64_t{header.size()});
  writer.write_bytes(as_byte_span(header));
  for (size_t i = 0; i < data_bytes; ++i) writer.write(static_cast<uint8_t>(i * 37));
  return writer.take();
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape, uint64_t begin, uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

// One layer of two heads, three tokens, head_dim 4: 48 bytes of f16 each.
const std::string kKey = entry("layers.0.key", "F16", "2,3,4", 0, 48);
const std::string kValue = entry("layers.0.value", "F16", "2,3,4", 48, 96);

Result<KvFile> read(const Bytes& bytes) { return read_kv_file(bytes, {}); }
Result<KvFile> read(const std::string& entries, size_t data_bytes) {
  return read(file_of("{" + entries + "}", data_bytes));
}

}  // namespace

TEST_CASE("safetensors: names, order, and the value of every channel where it belongs") {
  const KvFile file = must(read(kValue + "," + kKey, 96));
  REQUIRE(file.format == KvFileFormat::kSafetensors);
  REQUIRE(file.tensor.planes.size() == 2);
  CHECK(file.tensor.planes[0].side == Side::kKey);
  CHECK(file.tensor.token_sets[0].positions == std::vector<int32_t>{0, 1, 2});
  const Bytes bytes = file_of("{" + kValue + "," + kKey + "}", 96);
  std::vector<float> rows(3 * 2 * 4);
  load_values(file.tensor.planes[0].view, 0, 3, rows.data());
  for (uint32_t token = 0; token < 3; ++token) {
    for (uint32_t head = 0; head < 2; ++head) {
      for (uint32_t d = 0; d < 4; ++d) {  // [head][token][channel] in the file
        uint16_t half = 0;
        std::memcpy(&half, bytes.data() + bytes.size() - 96 + ((head * 3 + token) * 4 + d) * 2, 2);
        const float value = rows[(token * 2 + head) * 4 + d];
        CHECK((value == f16_to_f32(half) || value != value));
      }
    }
  }
  CHECK(rebuild(file) == bytes);
  for (const std::string pattern : {"key_cache.0|value_cache.0", "past_key_values.0.key|past_key_values.0.value",
                                    "layers.0.keys|layers.0.values"}) {
    const size_t bar = pattern.find('|');
    CHECK(read(entry(pattern.substr(0, bar), "F16", "2,3,4", 0, 48) + "," +
                   entry(pattern.substr(bar + 1), "F16", "2,3,4", 48, 96),
               96)
              .ok());
  }
}

TEST_CASE("safetensors: a leading 1, bf16, f32, other tensors, spaces in the header: all rebuilt to the byte") {
  for (const std::string dtype : {"F16", "BF16", "F32"}) {
    const size_t bytes = dtype == "F32" ? 96 : 48;
    const std::string header = " {\"__metadata__\": {\"format\": \"pt\"} , " +
                               entry("layers.0.key", dtype, "1,2,3,4", 8, 8 + bytes) + ",  " +
                               entry("other", "I64", "1", 0, 8) + "," +
                               entry("layers.0.value", dtype, "1,2,3,4", 8 + bytes, 8 + 2 * bytes) + "}   ";
    const Bytes file = file_of(header.substr(1), 8 + 2 * bytes);
    const KvFile read_back = must(read(file));
    CHECK(rebuild(read_back) == file);
    CHECK(restore(pack(read_back, nullptr, Quality::kLossless)) == file);
    CHECK(restore(pack(read_back, nullptr, Quality::kMedium)).size() == file.size());
  }
  const KvFile empty_other = must(read(entry("e", "F32", "0", 0, 0) + "," + kKey + "," + kValue, 96));
  CHECK(empty_other.tensor.planes.size() == 2);
}

TEST_CASE("safetensors: K and V of different head_dim, layers with fewer tokens (sliding windows)") {
  const std::string header =
      entry("layers.0.key", "F16", "1,5,4", 0, 40) + "," + entry("layers.0.value", "F16", "1,5,2", 40, 60) + "," +
      entry("layers.1.key", "F16", "1,2,4", 60, 76) + "," + entry("layers.1.value", "F16", "1,2,2", 76, 84) + "," +
      "\"__metadata__\":{\"tokens\":\"[1,2,3,4,5]\",\"positions\":\"[10,11,12,13,14]\"}";
  const KvFile file = must(read(header, 84));
  REQUIRE(file.tensor.token_sets.size() == 2);
  CHECK(file.tensor.token_sets[0].positions == std::vector<int32_t>{10, 11, 12, 13, 14});
  CHECK(file.tensor.token_sets[1].positions == std::vector<int32_t>{13, 14});
  CHECK(file.tokens == std::vector<int32_t>{1, 2, 3, 4, 5});
  CHECK(rebuild(file) == file_of("{" + header + "}", 84));
  const KvFile written = must(read(must(write_safetensors(file.tensor, file.tokens, std::nullopt))));
  CHECK(written.tokens == file.tokens);
  REQUIRE(written.tensor.token_sets.size() == 2);
  CHECK(written.tensor.token_sets[1].positions == std::vector<int32_t>{13, 14});
}

TEST_CASE("safetensors: metadata that is no list of token ids is kept and not believed") {
  for (const std::string tokens : {"\"hello\"", "\"[1,2.5]\"", "\"[1,99999999999]\"", "\"[18446744073709551615]\"",
                                   "\"{}\"", "\"[\"", "\"[-2147483649]\""}) {
    CAPTURE(tokens);
    const KvFile file = must(read("\"__metadata__\":{\"tokens\":" + tokens + "}," + kKey + "," + kValue, 96));
    CHECK(file.tokens.empty());
  }
  for (const std::string positions : {"[0,1]", "[0,0,1]", "[2,1,0]", "[-1,0,1]", "[0,1,18446744073709551615]", "x"}) {
    CAPTURE(positions);
    check_error(read("\"__metadata__\":{\"positions\":\"" + positions + "\"}," + kKey + "," + kValue, 96),
                ErrorKind::kCorrupt, "positions");
  }
}

TEST_CASE("safetensors rules: header length, JSON, metadata") {
  ByteWriter longest;
  longest.write(kMaxSafetensorsHeaderBytes + 1);
  longest.write_bytes(as_byte_span("{}"));
  check_error(parse_safetensors_header(longest.bytes()), ErrorKind::kLimit, "100000001 bytes");
  longest = {};
  longest.write(~uint64_t{0});
  longest.write_bytes(as_byte_span("{}"));
  check_error(parse_safetensors_header(longest.bytes()), ErrorKind::kLimit);
  longest = {};
  longest.write(uint64_t{100});
  longest.write_bytes(as_byte_span("{}"));
  check_error(parse_safetensors_header(longest.bytes()), ErrorKind::kTruncated, "safetensors header");
  for (const std::string header : {"", " {}", "[]", "{", "{}x", "{\"a\":1}", "{\"a\":{}}", "nul", "{\"a\":[]}"}) {
    CAPTURE(header);
    check_error(parse_safetensors_header(file_of(header, 0)), ErrorKind::kCorrupt);
  }
  check_error(parse_safetensors_header(file_of("{\"__metadata__\":{\"a\":1}}", 0)), ErrorKind::kCorrupt, "'a'");
  check_error(parse_safetensors_header(file_of("{\"__metadata__\":[]}", 0)), ErrorKind::kCorrupt, "__metadata__");
  std::string deep = "{\"a\":" + std::string(100000, '[');
  check_error(parse_safetensors_header(file_of(deep, 0)), ErrorKind::kLimit, "deep");
  check_error(parse_safetensors_header(file_of("{\"\xff\xfe\":{}}", 0)), ErrorKind::kCorrupt);
}

TEST_CASE("safetensors rules: no key twice, no holes, no overlaps, sizes as the shapes say, to the file's end") {
  check_error(read(kKey + "," + kKey + "," + kValue, 96), ErrorKind::kCorrupt, "'layers.0.key' a second time");
  check_error(read("\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}," + kKey + "," + kValue, 96), ErrorKind::kCorrupt,
              "'a'");
  check_error(read(kKey + "," + entry("layers.0.value", "F16", "2,3,4", 50, 98), 98), ErrorKind::kCorrupt, "hole");
  check_error(read(kKey + "," + entry("layers.0.value", "F16", "2,3,4", 40, 88), 88), ErrorKind::kCorrupt, "overlap");
  check_error(
      read(entry("layers.0.key", "F16", "2,3,4", 2, 50) + "," + entry("layers.0.value", "F16", "2,3,4", 50, 98), 98),
      ErrorKind::kCorrupt, "hole");
  check_error(read(kKey + "," + kValue, 97), ErrorKind::kCorrupt, "96 bytes of data, the file has 97");
  check_error(read(kKey + "," + kValue, 95), ErrorKind::kTruncated, "96 bytes of data, the file has 95");
  check_error(read(kKey + "," + entry("layers.0.value", "F16", "2,3,5", 48, 96), 96), ErrorKind::kCorrupt, "60 bytes");
  check_error(read(kKey + "," + entry("layers.0.value", "F16", "2,3,4", 96, 48), 96), ErrorKind::kCorrupt);
  check_error(read(kKey + "," + entry("x", "F99", "1", 48, 50), 50), ErrorKind::kUnsupported, "'F99'");
}

TEST_CASE("safetensors rules: shapes whose product overflows") {
  for (const std::string shape :
       {"4294967296,4294967296,1", "9223372036854775808,2", "18446744073709551615,2,2", "2,2,2,2,2,2,2,2,2"}) {
    CAPTURE(shape);
    check_error(read(entry("layers.0.key", "F16", shape, 0, 0), 0), ErrorKind::kCorrupt);
  }
  // 2^63 * 2 (f16) wraps to 0 bytes, which would fit data_offsets [0, 0].
  check_error(read(entry("layers.0.key", "F16", "9223372036854775808", 0, 0), 0), ErrorKind::kCorrupt, "64 bits");
  check_error(read(entry("layers.0.key", "F16", "-1,2,3", 0, 0), 0), ErrorKind::kCorrupt, "whole numbers");
  check_error(read(entry("layers.0.key", "F16", "1.5,2,3", 0, 0), 0), ErrorKind::kCorrupt, "whole numbers");
  check_error(read("\"layers.0.key\":{\"dtype\":\"F16\",\"shape\":[2,3,4],\"data_offsets\":[0,1e99]}", 0),
              ErrorKind::kCorrupt);
}

TEST_CASE("safetensors: caches that are none") {
  check_error(read(entry("model.weight", "F16", "2", 0, 4), 4), ErrorKind::kUnsupported, "without KV tensors");
  check_error(read(entry("layers.0.key", "F16", "24", 0, 48), 48), ErrorKind::kUnsupported,
              "[heads, tokens, head_dim]");
  check_error(read(entry("layers.0.key", "F16", "2,2,3,2", 0, 48), 48), ErrorKind::kUnsupported, "shape [2, 2, 3, 2]");
  check_error(read(entry("layers.0.key", "I16", "2,3,4", 0, 48), 48), ErrorKind::kUnsupported, "dtype I16");
  check_error(read(entry("layers.0.key", "F16", "2,0,4", 0, 0), 0), ErrorKind::kLimit, "at least one token");
  check_error(read(entry("layers.0.key", "F16", "0,3,4", 0, 0), 0), ErrorKind::kLimit);
  check_error(read(entry("layers.0.value", "F16", "2,3,4", 0, 48), 48), ErrorKind::kCorrupt, "no key tensor");
  check_error(read(kKey + "," + entry("layers.0.value", "F16", "2,2,4", 48, 80), 80), ErrorKind::kCorrupt, "2 tokens");
  check_error(read(kKey + "," + entry("key_cache.0", "F16", "2,3,4", 48, 96), 96), ErrorKind::kCorrupt, "another K");
  check_error(read(entry("layers.1024.key", "F16", "2,3,4", 0, 48), 48), ErrorKind::kLimit, "1024 layers");
  check_error(read(entry("layers.99999999999.key", "F16", "2,3,4", 0, 48), 48), ErrorKind::kUnsupported);
}

TEST_CASE("safetensors: cut at every byte, and containers too") {
  const Bytes file = file_of("{\"__metadata__\":{\"tokens\":\"[1,2,3]\"}," + kKey + "," + kValue + "}", 96);
  const KvFile whole = must(read(file));
  for (size_t count = 0; count < file.size(); ++count) {
    CAPTURE(count);
    CHECK_FALSE(read(Bytes(file.begin(), file.begin() + static_cast<ptrdiff_t>(count))).ok());
  }
  for (size_t count = 0; count < whole.container.size(); ++count) {
    const ByteSpan part = ByteSpan(whole.container).first(count);
    CHECK_FALSE(open_container(KvFileFormat::kSafetensors, part, {}).ok());
  }
  // A container that promises a file of 2^60 bytes.
  const std::string huge = entry("layers.0.key", "F16", "1024,68719476736,8192", 0, uint64_t{1} << 60);
  CHECK_FALSE(open_container(KvFileFormat::kSafetensors, file_of("{" + huge + "}", 0), {}).ok());
  const std::string large = entry("layers.0.key", "F16", "1024,16777216,8192", 0, uint64_t{1} << 48);
  check_error(open_container(KvFileFormat::kSafetensors, file_of("{" + large + "}", 0), {}), ErrorKind::kLimit,
              "the file would have");
  // More tokens than an archive may have: refused before their positions are made.
  const std::string long_one = entry("layers.0.key", "F16", "1,1073741824,1", 0, uint64_t{1} << 31);
  check_error(open_container(KvFileFormat::kSafetensors, file_of("{" + long_one + "}", 0), {}), ErrorKind::kLimit,
              "1073741824 tokens");
}

TEST_CASE("safetensors: written from a llama.cpp cache, in each type, and read back") {
  const ModelFacts facts = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    const KvFile back = must(read(must(write_safetensors(file.tensor, file.tokens, dtype))));
    CHECK(back.tokens == file.tokens);
    CHECK(back.tensor.planes[0].view.dtype == dtype);
    CHECK(back.tensor.planes[0].view.kv_heads == 2);
    CHECK(relative_error(file.tensor, back.tensor) <= (dtype == DType::kBf16 ? 0.004 : 0.0));
  }
  check_error(write_safetensors(file.tensor, {}, DType::kQ8_0), ErrorKind::kUnsupported, "q8_0");
  check_error(write_safetensors(KvTensor(), {}, std::nullopt), ErrorKind::kInvalidArgument, "no KV");
  const KvFile quantized = read_kv(read_sample("llama/lighthouse-q8_0.slot.bin"), &facts);
  const KvFile back = must(read(must(write_safetensors(quantized.tensor, {}, std::nullopt))));
  CHECK(back.tensor.planes[0].view.dtype == DType::kF16);
  CHECK(relative_error(quantized.tensor, back.tensor) < 1e-3);
}
