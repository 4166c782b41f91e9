// SPDX-License-Identifier: Apache-2.0
// Damaged and forged model files: one clear error each, bounded in time and memory.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "formats/byte_io.h"
#include "formats/gguf.h"
#include "formats/model_sources.h"
#include "tests/gguf_builder.h"
#include "tests/must.h"
#include "tests/peak_memory.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

Result<ModelFacts> read(const Bytes& bytes) {
  MemorySource source(bytes, "model.gguf");
  return model_facts_from_gguf(source);
}

GgufBuilder llama() {
  GgufBuilder gguf("llama");
  gguf.u32(".block_count", 2).u32(".context_length", 2048).u32(".embedding_length", 128);
  gguf.u32(".attention.head_count", 2);
  return gguf;
}

Bytes le(std::initializer_list<uint64_t> words) {
  ByteWriter writer;
  for (const uint64_t word : words) writer.write(word);
  return writer.take();
}

// An array header: u32 element type, u64 count.
Bytes array_of(uint32_t type, uint64_t count) {
  ByteWriter writer;
  writer.write(type);
  writer.write(count);
  return writer.take();
}

std::string config_with(std::string_view field) {
  return R"({"model_type": "llama", "hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, )" +
         std::string(field) + "}";
}

std::string json_with(std::string_view field) {
  return R"({"kvpack_model": 1, "architecture": "llama", )" + std::string(field) + "}";
}

}  // namespace

TEST_CASE("GGUF, hostile: magic and version") {
  REQUIRE(read(llama().take()).ok());
  check_error(read(GgufBuilder("llama", 1).take()), ErrorKind::kUnsupported, "version 1");
  check_error(read(GgufBuilder("llama", 4).take()), ErrorKind::kUnsupported, "version 4");
  check_error(read(GgufBuilder("llama", 0x03000000).take()), ErrorKind::kUnsupported, "big-endian");
  Bytes bytes = llama().take();
  bytes[0] = std::byte{'g'};
  check_error(read(bytes), ErrorKind::kCorrupt, "GGUF");
}

TEST_CASE("GGUF, hostile: cut at every byte") {
  const Bytes bytes = llama().u32s(".attention.head_count_kv", {1, 1}).f32_tensor("rope_freqs.weight", {1, 1}).take();
  size_t values_end = bytes.size();
  while (bytes[values_end - 1] == std::byte{0}) --values_end;  // padding after the last value may be missing
  for (size_t count = 0; count < values_end; ++count) {
    CAPTURE(count);
    const auto facts = read(Bytes(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count)));
    REQUIRE_FALSE(facts.ok());
    if (count >= 4) CHECK(facts.error().kind == ErrorKind::kTruncated);
  }
}

TEST_CASE("GGUF, hostile: every bit flipped is an error or other facts, never a crash") {
  Bytes bytes = llama().u32s(".attention.head_count_kv", {1, 1}).f32_tensor("rope_freqs.weight", {1, 1}).take();
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto facts = read(bytes);
    if (facts.ok()) CHECK_FALSE(facts->layers.empty());
    if (!facts.ok()) CHECK_FALSE(facts.error().message.empty());
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST_CASE("GGUF, hostile: counts and lengths that lie") {
  const PeakGuard guard(128 * 1024);
  for (const size_t offset : {size_t{8}, size_t{16}}) {  // tensor count, key count
    for (const uint64_t count : {uint64_t{1000}, uint64_t{1} << 32, uint64_t{1} << 60, ~uint64_t{0}}) {
      Bytes bytes = llama().take();
      std::memcpy(bytes.data() + offset, &count, sizeof count);
      check_error(read(bytes), ErrorKind::kTruncated, "bytes are left");
    }
  }
  for (const uint64_t length : {uint64_t{1} << 20, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}}) {
    check_error(read(llama().raw("a", GgufBuilder::kString, le({length})).take()), ErrorKind::kTruncated, "'a'");
    for (const uint32_t type : {0u, 4u, 8u, 9u, 12u}) {
      check_error(read(llama().raw("a", GgufBuilder::kArray, array_of(type, length)).take()), ErrorKind::kTruncated);
    }
  }
  check_error(read(llama().raw("a", GgufBuilder::kArray, array_of(13, 1)).take()), ErrorKind::kCorrupt);
  check_error(read(llama().raw("a", 13, le({0})).take()), ErrorKind::kCorrupt, "'a'");
  check_error(read(llama().raw("a", ~0u, le({0})).take()), ErrorKind::kCorrupt, "'a'");
  Bytes nested;
  for (int depth = 0; depth < 5000; ++depth) {
    const Bytes level = array_of(GgufBuilder::kArray, 1);
    nested.insert(nested.end(), level.begin(), level.end());
  }
  CHECK_FALSE(read(llama().raw("a", GgufBuilder::kArray, nested).take()).ok());
  check_error(read(llama().text("a", "1").text("a", "2").take()), ErrorKind::kCorrupt, "'a'");
  check_error(read(llama().flag("a", 2).take()), ErrorKind::kCorrupt, "boolean");
}

TEST_CASE("GGUF, hostile: tensors") {
  const auto with = [](const std::vector<uint64_t>& dims, uint64_t offset) {
    return llama().tensor("t", dims, 0, offset).take();
  };
  check_error(read(with({uint64_t{1} << 32, uint64_t{1} << 32}, 0)), ErrorKind::kCorrupt, "overflow");
  check_error(read(with({~uint64_t{0}}, 0)), ErrorKind::kCorrupt, "overflow");
  check_error(read(with({1, 1, 1, 1, 1}, 0)), ErrorKind::kCorrupt, "5 dimensions");
  check_error(read(with({1}, 33)), ErrorKind::kCorrupt, "alignment");
  check_error(read(with({1}, 1 << 20)), ErrorKind::kTruncated, "'t'");
  check_error(read(with({1}, ~uint64_t{0} - 31)), ErrorKind::kTruncated, "'t'");
  check_error(read(llama().tensor("t", {1}, 0, 0).tensor("t", {1}, 0, 0).take()), ErrorKind::kCorrupt, "second time");
  check_error(read(llama().tensor("rope_freqs.weight", {1000}, 0, 0).take()), ErrorKind::kTruncated, "rope_freqs");
  check_error(read(llama().tensor("rope_freqs.weight", {1u << 30}, 0, 0).take()), ErrorKind::kLimit, "rope_freqs");
  check_error(read(llama().tensor("rope_freqs.weight", {4}, 8, 0).take()), ErrorKind::kUnsupported, "rope_freqs");
  for (const float factor : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    check_error(read(llama().f32_tensor("rope_freqs.weight", std::vector<float>(32, factor)).take()),
                ErrorKind::kCorrupt, "factor");
  }
  check_error(read(llama().f32_tensor("rope_freqs.weight", {1, 1}).take()), ErrorKind::kCorrupt,
              "2 factors for 32 pairs");
  check_error(read(llama().u32("general.alignment", 3).take()), ErrorKind::kCorrupt, "alignment");
  check_error(read(llama().u32("general.alignment", 0).take()), ErrorKind::kCorrupt, "alignment");
}

TEST_CASE("GGUF, hostile: values that make no model") {
  check_error(read(GgufBuilder("").take()), ErrorKind::kCorrupt, "general.architecture");
  check_error(read(GgufBuilder("llama").take()), ErrorKind::kCorrupt, "llama.block_count");
  for (const uint32_t layers : {0u, 1025u, ~0u}) {
    check_error(read(GgufBuilder("llama").u32(".block_count", layers).take()), ErrorKind::kCorrupt, "block_count");
  }
  check_error(read(GgufBuilder("llama").text(".block_count", "2").take()), ErrorKind::kCorrupt, "block_count");
  check_error(read(GgufBuilder("llama").u32(".block_count", 2).u32(".attention.head_count", 2).take()),
              ErrorKind::kCorrupt, "no size");
  check_error(read(llama().u32s(".attention.head_count_kv", {1, 1, 1}).u32(".attention.key_length", 8193).take()),
              ErrorKind::kCorrupt, "key_length");
  check_error(read(llama().u32s(".attention.head_count_kv", {}).take()), ErrorKind::kCorrupt, "0 values for 2 layers");
  check_error(read(llama().u32(".attention.head_count_kv", 1025).take()), ErrorKind::kCorrupt, "head_count_kv");
  for (const float base : {0.0f, 1.0f, -5.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    check_error(read(llama().f32(".rope.freq_base", base).take()), ErrorKind::kCorrupt);
  }
  check_error(read(llama().u32(".rope.dimension_count", 63).take()), ErrorKind::kCorrupt, "63 rotated channels");
  check_error(read(llama().u32(".rope.dimension_count", 66).take()), ErrorKind::kCorrupt, "66 rotated channels");
  check_error(read(llama().f32(".rope.scaling.factor", -1).take()), ErrorKind::kCorrupt, "factor");
}

TEST_CASE("config.json, hostile") {
  REQUIRE(model_facts_from_config(config_with("\"a\": 1")).ok());
  const std::pair<const char*, const char*> fields[] = {
      {"\"num_key_value_heads\": 0", "num_key_value_heads"},
      {"\"num_key_value_heads\": -1", "num_key_value_heads"},
      {"\"num_key_value_heads\": 1.5", "num_key_value_heads"},
      {"\"num_key_value_heads\": 99999999999", "num_key_value_heads"},
      {"\"num_key_value_heads\": \"2\"", "num_key_value_heads"},
      {"\"head_dim\": 8193", "head_dim"},
      {"\"rope_theta\": 0", "rope_theta"},
      {"\"rope_theta\": -1", "rope_theta"},
      {"\"rope_theta\": \"x\"", "rope_theta"},
      {"\"rope_theta\": 0.5", "base"},
      {"\"rope_scaling\": 3", "rope_scaling"},
      {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}", "factor"},
      {"\"rope_scaling\": {\"type\": \"llama3\"}", "llama3"},
      {"\"partial_rotary_factor\": 1.5", "RoPE"},
      {"\"layer_types\": [\"full_attention\"]", "1 entries for 2 layers"},
      {"\"layer_types\": [1, 2]", "layer_types"},
      {"\"hidden_size\": 128", "hidden_size"}};
  for (const auto& [field, text] : fields) {
    CAPTURE(field);
    check_error(model_facts_from_config(config_with(field)), ErrorKind::kCorrupt, text);
  }
  for (const char* text :
       {"", "[]", "{}", "{\"model_type\": \"llama\"}", "{\"model_type\": 1}", "nul",
        R"({"model_type": "llama", "num_hidden_layers": 2})",
        R"({"model_type": "llama", "num_hidden_layers": 0, "num_attention_heads": 2, "hidden_size": 8})"}) {
    CAPTURE(text);
    check_error(model_facts_from_config(text), ErrorKind::kCorrupt);
  }
  check_error(model_facts_from_config(config_with("\"num_hidden_layers\": 2000")), ErrorKind::kCorrupt);
  check_error(model_facts_from_config(std::string(kMaxModelJsonBytes + 1, ' ')), ErrorKind::kLimit);
  check_error(model_facts_from_config(config_with("\"a\": " + std::string(10000, '['))), ErrorKind::kLimit, "deep");
  // Wrong numbers of known architectures must not reach an array's end.
  check_error(model_facts_from_config(R"({"model_type": "smollm3", "hidden_size": 128, "num_attention_heads": 2,
      "num_hidden_layers": 3, "no_rope_layers": [1]})"),
              ErrorKind::kCorrupt, "1 entries for 3 layers");
}

TEST_CASE("model.json, hostile") {
  const std::string layers =
      "\"layers\": [{\"count\": 2, \"kv_heads\": 1, \"key_dim\": 4, \"value_dim\": 4, \"rope\": 0}]";
  const std::string rope = "\"ropes\": [{\"style\": \"norm\", \"inv_freq\": [1, 0.5]}]";
  REQUIRE(model_facts_from_json(json_with(rope + "," + layers)).ok());
  const std::pair<std::string, const char*> files[] = {
      {layers, "there are 0 ropes"},
      {rope, "layers"},
      {rope + ",\"layers\": []", "layers"},
      {rope + ",\"layers\": [{\"kv_heads\": 1}]", "key_dim"},
      {rope + ",\"layers\": [{\"count\": 0}]", "count"},
      {rope + ",\"layers\": [{\"kv_heads\": 1, \"key_dim\": 2, \"rope\": 0}]", "rotates channels 0 to 4 of a key of 2"},
      {rope + ",\"layers\": [{\"kv_heads\": 1, \"key_dim\": 4, \"rope\": 0.5}]", "0.5"},
      {rope + ",\"layers\": [{\"kv_heads\": 1, \"key_dim\": 4, \"rope\": 1e300}]", "rope"},
      {rope + ",\"layers\": [{\"kv_heads\": 1, \"key_dim\": 4, \"rope\": -2}]", "rope"},
      {"\"ropes\": [{\"style\": \"spiral\", \"inv_freq\": [1]}]," + layers, "style"},
      {"\"ropes\": [{\"style\": \"norm\"}]," + layers, "inv_freq"},
      {"\"ropes\": [{\"style\": \"norm\", \"inv_freq\": [\"1\"]}]," + layers, "inv_freq"},
      {"\"ropes\": [{\"style\": \"norm\", \"inv_freq\": [1], \"magnitude\": 0}]," + layers, "magnitude"},
      {"\"ropes\": [{\"style\": \"norm\", \"inv_freq\": [1], \"first_channel\": 8193}]," + layers, "first_channel"}};
  for (const auto& [fields, text] : files) {
    CAPTURE(fields);
    check_error(model_facts_from_json(json_with(fields)), ErrorKind::kCorrupt, text);
  }
  check_error(model_facts_from_json(json_with(rope + ",\"layers\": [{\"count\": 1000}, {\"count\": 1000}]")),
              ErrorKind::kLimit, "1024 layers");
  check_error(model_facts_from_json("{\"kvpack_model\": 2}"), ErrorKind::kUnsupported, "version 2");
  check_error(model_facts_from_json("{\"kvpack_model\": 1}"), ErrorKind::kCorrupt, "architecture");
  check_error(model_facts_from_json("{}"), ErrorKind::kCorrupt, "kvpack_model");
}
