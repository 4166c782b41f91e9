// SPDX-License-Identifier: Apache-2.0
// One meaning from three sources: GGUF metadata, a transformers config.json, kvpack's model.json. Expected rotations
// are computed here from the models' published numbers, not with formats/rope_frequencies.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "formats/architectures.h"
#include "formats/byte_io.h"
#include "formats/model_sources.h"
#include "tests/gguf_builder.h"
#include "tests/sample_files.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

Result<ModelFacts> from_gguf(const Bytes& bytes) {
  MemorySource source(bytes, "model.gguf");
  return model_facts_from_gguf(source);
}

std::vector<double> plain_frequencies(double base, uint32_t dims) {
  std::vector<double> frequencies;
  for (uint32_t j = 0; j < dims / 2; ++j) frequencies.push_back(std::pow(base, -2.0 * j / dims));
  return frequencies;
}

void check_rope(const ModelFacts& facts, size_t layer, RopeStyle style, const std::vector<double>& frequencies) {
  CAPTURE(layer);
  REQUIRE(facts.layers[layer].rope >= 0);
  const Rope& rope = facts.ropes[static_cast<size_t>(facts.layers[layer].rope)];
  CHECK(rope.style == style);
  REQUIRE(rope.inv_freq.size() == frequencies.size());
  for (size_t j = 0; j < frequencies.size(); ++j)
    CHECK(rope.inv_freq[j] == doctest::Approx(frequencies[j]).epsilon(1e-6));
}

// The same shapes, windows and rotations, whatever the names.
void check_same_meaning(const ModelFacts& a, const ModelFacts& b) {
  REQUIRE(a.layers.size() == b.layers.size());
  CHECK(a.sliding_window == b.sliding_window);
  CHECK(a.context_length == b.context_length);
  for (size_t i = 0; i < a.layers.size(); ++i) {
    CAPTURE(i);
    CHECK(a.layers[i].kv_heads == b.layers[i].kv_heads);
    CHECK(a.layers[i].key_dim == b.layers[i].key_dim);
    CHECK(a.layers[i].value_dim == b.layers[i].value_dim);
    CHECK(a.layers[i].sliding == b.layers[i].sliding);
    CHECK(a.layers[i].recurrent == b.layers[i].recurrent);
    REQUIRE((a.layers[i].rope >= 0) == (b.layers[i].rope >= 0));
    if (a.layers[i].rope < 0) continue;
    const Rope& x = a.ropes[static_cast<size_t>(a.layers[i].rope)];
    check_rope(b, i, x.style, x.inv_freq);
    CHECK(b.ropes[static_cast<size_t>(b.layers[i].rope)].magnitude == doctest::Approx(x.magnitude));
  }
}

// SmolLM2-135M, as its GGUF and its config.json say it.
GgufBuilder smollm2_gguf() {
  GgufBuilder gguf("llama");
  gguf.u32(".block_count", 30).u32(".context_length", 8192).u32(".embedding_length", 576);
  gguf.u32(".attention.head_count", 9).u32(".attention.head_count_kv", 3);
  gguf.f32(".rope.freq_base", 100000).u32(".rope.dimension_count", 64);
  return gguf;
}
constexpr std::string_view kSmollm2Config = R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
  "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30,
  "max_position_embeddings": 8192, "rope_theta": 100000.0, "rope_scaling": null})";

GgufBuilder qwen2_gguf() {
  GgufBuilder gguf("qwen2");
  gguf.u32(".block_count", 24).u32(".context_length", 32768).u32(".embedding_length", 896);
  gguf.u32(".attention.head_count", 14).u32(".attention.head_count_kv", 2).f32(".rope.freq_base", 1000000);
  return gguf;
}
std::string qwen2_config(std::string_view more = "") {
  return R"({"model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2,
    "num_hidden_layers": 24, "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": 32768,
    "use_sliding_window": false, "max_window_layers": 21)" +
         std::string(more) + "}";
}

// Gemma 3 270M: 18 layers of which 5, 11 and 17 are full.
GgufBuilder gemma3_gguf() {
  GgufBuilder gguf("gemma3");
  gguf.u32(".block_count", 18).u32(".context_length", 32768).u32(".embedding_length", 640);
  gguf.u32(".attention.head_count", 4).u32(".attention.head_count_kv", 1);
  gguf.u32(".attention.key_length", 256).u32(".attention.value_length", 256).u32(".attention.sliding_window", 512);
  gguf.f32(".rope.freq_base", 1000000);
  return gguf;
}
constexpr std::string_view kGemma3Config = R"({"model_type": "gemma3_text", "hidden_size": 640, "head_dim": 256,
  "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 18, "max_position_embeddings": 32768,
  "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window": 512, "_sliding_window_pattern": 6})";

}  // namespace

TEST_CASE("model facts: the shipped GGUF") {
  const ModelFacts facts = nano_facts();
  CHECK(facts.architecture == "llama");
  CHECK(facts.name == "nano");
  CHECK(facts.fingerprint.size() == 5 + 32);
  CHECK(facts.fingerprint.starts_with("gguf:"));
  CHECK(facts.context_length == 2048);
  CHECK(facts.note.empty());
  REQUIRE(facts.layers.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(facts.layers[i].kv_heads == 2);
    CHECK(facts.layers[i].key_dim == 64);
    CHECK(facts.layers[i].value_dim == 64);
    check_rope(facts, i, RopeStyle::kNorm, plain_frequencies(10000, 64));
  }
}

TEST_CASE("model facts: llama, from GGUF, config.json and the shipped model.json") {
  const ModelFacts gguf = must(from_gguf(smollm2_gguf().take()));
  const ModelFacts config = must(model_facts_from_config(kSmollm2Config));
  const ModelFacts json = must(read_model_facts(sample_path("smollm2-135m.model.json")));
  check_rope(gguf, 29, RopeStyle::kNorm, plain_frequencies(100000, 64));
  check_same_meaning(gguf, json);
  // transformers keeps the channels of a head in another order, where the same rotation is NEOX.
  check_rope(config, 29, RopeStyle::kNeox, plain_frequencies(100000, 64));
  check_same_meaning(gguf, with_llama_cpp_layout(config));
  check_same_meaning(with_transformers_layout(gguf), config);
  CHECK(config.fingerprint.starts_with("config:"));
}

TEST_CASE("model facts: qwen2 is NEOX, in both layouts") {
  const ModelFacts gguf = must(from_gguf(qwen2_gguf().take()));
  check_rope(gguf, 0, RopeStyle::kNeox, plain_frequencies(1000000, 64));
  CHECK(gguf.layers[0].kv_heads == 2);
  check_same_meaning(gguf, must(model_facts_from_config(qwen2_config())));
  CHECK(with_llama_cpp_layout(gguf).ropes == gguf.ropes);
}

TEST_CASE("model facts: gemma3's two kinds of layers") {
  const ModelFacts gguf = must(from_gguf(gemma3_gguf().take()));
  CHECK(gguf.sliding_window == 512);
  for (size_t i = 0; i < 18; ++i) {
    CHECK(gguf.layers[i].sliding == (i % 6 != 5));
    check_rope(gguf, i, RopeStyle::kNeox, plain_frequencies(i % 6 == 5 ? 1000000 : 10000, 256));
  }
  check_same_meaning(gguf, must(model_facts_from_config(kGemma3Config)));
  // A scaled Gemma 3 (4B and above): only full layers are scaled.
  GgufBuilder scaled = gemma3_gguf();
  scaled.text(".rope.scaling.type", "linear").f32(".rope.scaling.factor", 8);
  const ModelFacts large = must(from_gguf(scaled.take()));
  std::vector<double> eighths = plain_frequencies(1000000, 256);
  for (double& frequency : eighths) frequency /= 8;
  check_rope(large, 5, RopeStyle::kNeox, eighths);
  check_rope(large, 4, RopeStyle::kNeox, plain_frequencies(10000, 256));
  std::string config(kGemma3Config);
  config.insert(config.size() - 1, R"(, "rope_scaling": {"rope_type": "linear", "factor": 8.0})");
  check_same_meaning(large, must(model_facts_from_config(config)));
}

TEST_CASE("model facts: YaRN and Llama 3 scaling mean the same in both sources") {
  GgufBuilder yarn = qwen2_gguf();
  yarn.text(".rope.scaling.type", "yarn")
      .f32(".rope.scaling.factor", 4)
      .u32(".rope.scaling.original_context_length", 32768);
  const std::string yarn_config =
      qwen2_config(R"(, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})");
  const ModelFacts from_config = must(model_facts_from_config(yarn_config));
  check_same_meaning(must(from_gguf(yarn.take())), from_config);
  const Rope& rope = from_config.ropes[0];
  CHECK(rope.magnitude == doctest::Approx(0.1 * std::log(4.0) + 1));
  CHECK(rope.inv_freq.front() == 1);  // fast pairs keep their frequency
  CHECK(rope.inv_freq.back() == doctest::Approx(plain_frequencies(1000000, 64).back() / 4));

  // Llama 3.2 1B. llama.cpp's converter writes the factors as a tensor.
  std::vector<float> factors;
  for (const double frequency : plain_frequencies(500000, 64)) {
    const double wavelength = 2 * M_PI / frequency;
    const double smooth = (8192 / wavelength - 1) / (4 - 1.0);
    factors.push_back(static_cast<float>(wavelength < 8192 / 4.0 ? 1
                                         : wavelength > 8192     ? 32
                                                                 : 1 / ((1 - smooth) / 32 + smooth)));
  }
  GgufBuilder llama3("llama");
  llama3.u32(".block_count", 2).u32(".context_length", 131072).u32(".embedding_length", 2048);
  llama3.u32(".attention.head_count", 32).u32(".attention.head_count_kv", 8).f32(".rope.freq_base", 500000);
  llama3.f32_tensor("rope_freqs.weight", factors);
  check_same_meaning(
      must(from_gguf(llama3.take())),
      with_llama_cpp_layout(must(model_facts_from_config(
          R"({"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
          "num_hidden_layers": 2, "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling":
          {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}})"))));
}

TEST_CASE("model facts: what is not known is said, and keys are then left alone") {
  GgufBuilder unknown("nobody-knows-this");
  unknown.u32(".block_count", 2).u32(".embedding_length", 128).u32(".attention.head_count", 2);
  const ModelFacts facts = must(from_gguf(unknown.take()));
  CHECK(facts.note.find("nobody-knows-this") != std::string::npos);
  CHECK(facts.layers[1].rope == -1);
  CHECK(facts.layers[1].kv_heads == 2);
  const ModelFacts config = must(model_facts_from_config(
      R"({"model_type": "unheard_of", "hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2})"));
  CHECK(config.note.find("unheard_of") != std::string::npos);
  CHECK(config.layers[1].rope == -1);
  GgufBuilder scaled = qwen2_gguf();
  scaled.text(".rope.scaling.type", "martian");
  CHECK(must(from_gguf(scaled.take())).note.find("martian") != std::string::npos);
}

TEST_CASE("model facts: model.json reads back exactly") {
  for (const Bytes& bytes : {smollm2_gguf().take(), qwen2_gguf().take(), gemma3_gguf().take()}) {
    const ModelFacts facts = must(from_gguf(bytes));
    const std::string text = model_facts_to_json(facts);
    const ModelFacts back = must(model_facts_from_json(text));
    CHECK(model_facts_to_json(back) == text);
    CHECK(back.ropes == facts.ropes);  // every bit of every frequency
    CHECK(back.fingerprint == facts.fingerprint);
    check_same_meaning(facts, back);
  }
}

TEST_CASE("model facts: files are told apart by content; folders, empty files and strangers get one clear error") {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "kvpack-test-model-facts";
  std::filesystem::create_directories(folder);
  const auto write = [&](const std::string& name, std::string_view text) {
    std::ofstream(folder / name, std::ios::binary) << text;
    return (folder / name).string();
  };
  write("config.json", kGemma3Config);
  CHECK(must(read_model_facts(folder.string())).layers.size() == 18);
  CHECK(must(read_model_facts(write("odd.name", as_text(qwen2_gguf().take())))).architecture == "qwen2");
  check_error(read_model_facts(write("empty", "")), ErrorKind::kTruncated, "empty");
  check_error(read_model_facts(write("text", "hello")), ErrorKind::kUnsupported, "0x68 0x65");
  check_error(read_model_facts(write("other.json", "{\"a\": 1}")), ErrorKind::kUnsupported, "model_type");
  check_error(read_model_facts(write("cut.json", "{\"model_type\": ")), ErrorKind::kCorrupt, "cut.json");
  check_error(read_model_facts((folder / "none").string()), ErrorKind::kIo, "none");
  check_error(read_model_facts("/dev/null"), ErrorKind::kIo, "/dev/null");
  std::filesystem::remove_all(folder);
}
