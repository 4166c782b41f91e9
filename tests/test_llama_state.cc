// SPDX-License-Identifier: Apache-2.0
// Reading llama.cpp's state files: what the real ones are, and that each is rebuilt to the byte from its container.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "formats/llama_state.h"
#include "tests/sample_files.h"
#include "tests/state_builder.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

bool says(const KvFile& file, std::string_view text) { return file.description.find(text) != std::string::npos; }

struct Expected {
  const char* module;
  const char* description;  // part of it
  uint32_t planes;
  bool opaque = false;
};

// By llama.cpp's own memory classes (see samples/README.md for how each file was made).
const std::map<std::string, Expected> kSamples = {
    {"llama/lighthouse-4-streams.slot.bin",
     {"unified", "packed payload, unified, 4 streams, 1283 cells, K f16, V f16", 8}},
    {"llama/lighthouse-f16-transposed-v.slot.bin", {"unified", "K f16, V f16 transposed", 8}},
    {"llama/lighthouse-f16.slot.bin", {"unified", "packed payload, unified, 1283 cells, K f16, V f16", 8}},
    {"llama/lighthouse-q8_0.slot.bin", {"unified", "K q8_0, V q8_0", 8}},
    {"llama/lighthouse.session.bin", {"unified", "session file v10 of 'llama', unified", 8}},
    {"zoo/deepseek2.bin", {"MLA", "MLA, 100 cells, K f16", 0}},
    {"zoo/deepseek32.bin", {"DSA", "the file does not tell", 0}},
    {"zoo/deepseek4.bin", {"DSV4", "DSV4", 0, true}},
    {"zoo/gemma2-2-streams.bin", {"iSWA", "2 streams", 0}},
    {"zoo/gemma2-nofa.bin", {"iSWA", "V f16 transposed", 0}},
    {"zoo/gemma2.bin", {"iSWA", "plain payload, iSWA", 0}},
    {"zoo/gemma2.session.bin", {"iSWA", "session file v10 of 'gemma2', iSWA", 0}},
    {"zoo/gpt-oss.bin", {"iSWA", "iSWA", 0}},
    {"zoo/jamba.bin", {"hybrid", "hybrid", 0, true}},
    {"zoo/lfm2.bin", {"hybrid-iSWA", "hybrid-iSWA", 0, true}},
    {"zoo/mamba2.bin", {"recurrent", "recurrent", 0, true}},
    {"zoo/minimax-m3.bin", {"iSWA", "or MSA: the file does not tell", 0}},
    {"zoo/qwen2vl.bin", {"unified", "unified, extra position words", 0}},
    {"zoo/qwen3next.bin", {"hybrid", "hybrid", 0, true}},
    {"zoo/qwen4exp.bin", {"hybrid-idx", "hybrid-idx, extra position words", 0, true}},
};

std::vector<std::string> all_samples() {
  std::vector<std::string> names = samples_in("llama");
  for (const std::string& name : samples_in("zoo")) names.push_back(name);
  return names;
}

}  // namespace

TEST_CASE("llama state: every sample is read, and its memory module named") {
  const std::vector<std::string> names = all_samples();
  CHECK(names.size() == kSamples.size());
  for (const std::string& name : names) {
    CAPTURE(name);
    REQUIRE(kSamples.contains(name));
    const Expected& expected = kSamples.at(name);
    const KvFile file = read_kv(read_sample(name));
    CAPTURE(file.description);
    CHECK(file.format == KvFileFormat::kLlamaState);
    CHECK(file.module == expected.module);
    CHECK(says(file, expected.description));
    CHECK(file.has_opaque_state == expected.opaque);
    if (expected.planes > 0) CHECK(file.tensor.planes.size() == expected.planes);
    CHECK(file.tokens.size() == (name.starts_with("llama/") ? 1283 : 100));
    for (const TokenSet& set : file.tensor.token_sets) {
      CHECK(std::is_sorted(set.positions.begin(), set.positions.end()));
    }
  }
}

TEST_CASE("llama state: every sample comes back to the byte from container and stored values") {
  for (const std::string& name : all_samples()) {
    CAPTURE(name);
    const Bytes bytes = read_sample(name);
    const KvFile file = read_kv(bytes);
    CHECK(rebuild(file) == bytes);
    CHECK(file.container.size() < bytes.size() - file.tensor.raw_bytes() + 256);
  }
}

TEST_CASE("llama state: a model settles heads, layers and RoPE, and a wrong one is refused with both numbers") {
  const ModelFacts facts = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  for (const KvPlane& plane : file.tensor.planes) {
    CHECK(plane.view.kv_heads == 2);
    CHECK(plane.view.head_dim == 64);
    CHECK(plane.rope == (plane.side == Side::kKey ? 0 : -1));
  }
  CHECK(file.tensor.planes.back().layer == 3);
  ModelFacts wrong = facts;
  wrong.layers.pop_back();
  KvReadOptions options;
  options.facts = &wrong;
  check_error(read_kv_file(read_sample("llama/lighthouse-f16.slot.bin"), options), ErrorKind::kInvalidArgument,
              "the model has 3 attention layers, the file's KV block 0 has 4");
  wrong = facts;
  for (LayerFacts& layer : wrong.layers) layer.kv_heads = 4;
  check_error(read_kv_file(read_sample("llama/lighthouse-f16.slot.bin"), options), ErrorKind::kInvalidArgument,
              "4 heads x 64 = 256 K channels in layer 0, the file has 128");
  wrong = facts;
  wrong.architecture = "qwen2";
  check_error(read_kv_file(read_sample("llama/lighthouse.session.bin"), options), ErrorKind::kInvalidArgument,
              "architecture 'llama', the model of 'qwen2'");
}

TEST_CASE("llama state: the same context reads the same from every layout") {
  const ModelFacts facts = nano_facts();
  const KvFile rows = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  const struct {
    const char* name;
    double tolerance;  // relative; transposed V was computed by other kernels
  } others[] = {{"llama/lighthouse-4-streams.slot.bin", 0.02},
                {"llama/lighthouse-f16-transposed-v.slot.bin", 0.02},
                {"llama/lighthouse-q8_0.slot.bin", 0.05}};
  for (const auto& [name, tolerance] : others) {
    CAPTURE(name);
    const KvFile other = read_kv(read_sample(name), &facts);
    CHECK(other.tokens == rows.tokens);
    REQUIRE(other.tensor.planes.size() == rows.tensor.planes.size());
    CHECK(other.tensor.token_sets[0].positions == rows.tensor.token_sets[0].positions);
    for (size_t p = 0; p < rows.tensor.planes.size(); ++p) {
      const KvView& a = rows.tensor.planes[p].view;
      std::vector<float> x(size_t{a.tokens} * a.channels()), y(x.size());
      load_values(a, 0, a.tokens, x.data());
      load_values(other.tensor.planes[p].view, 0, a.tokens, y.data());
      double error = 0, squares = 0;
      for (size_t i = 0; i < x.size(); ++i) error += (x[i] - y[i]) * (x[i] - y[i]), squares += x[i] * x[i];
      CHECK(std::sqrt(error / squares) < tolerance);
    }
  }
}

TEST_CASE("llama state: without the Hadamard rotation undone, q8_0 keys are something else entirely") {
  const ModelFacts facts = nano_facts();
  KvReadOptions options;
  options.facts = &facts;
  options.hadamard_rotated = false;
  const KvFile rotated = must(read_kv_file(read_sample("llama/lighthouse-q8_0.slot.bin"), options));
  const KvFile plain = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  CHECK(rotated.assumptions.find("not rotated") != std::string::npos);
  std::vector<float> a(128), b(128);
  load_values(rotated.tensor.planes[0].view, 100, 1, a.data());
  load_values(plain.tensor.planes[0].view, 100, 1, b.data());
  double error = 0, squares = 0;
  for (int i = 0; i < 128; ++i) error += (a[i] - b[i]) * (a[i] - b[i]), squares += b[i] * b[i];
  CHECK(error > 0.5 * squares);
}

TEST_CASE("llama state: cells in any order are sorted by position, and the file keeps its own order") {
  BlockFields fields;
  fields.positions = {4, 0, 3, 1, 2};
  const Bytes bytes = small_sequence(fields);
  const KvFile file = read_kv(bytes);
  CHECK(file.tensor.token_sets[0].positions == std::vector<int32_t>{0, 1, 2, 3, 4});
  CHECK(file.tensor.token_sets[0].row_of_token == std::vector<uint32_t>{1, 3, 4, 2, 0});
  CHECK(rebuild(file) == bytes);
  std::vector<float> token(64), row(64);
  const KvView& view = file.tensor.planes[0].view;
  load_values(view, 4, 1, token.data());  // position 4 lies in row 0
  KvView rows = view;
  rows.row_of_token = nullptr;
  load_values(rows, 0, 1, row.data());
  CHECK(token == row);
}

TEST_CASE("llama state: every cache type, both sides, row and transposed V, packed payload, trailing bytes") {
  for (const DType key : {DType::kF32, DType::kF16, DType::kBf16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                          DType::kQ5_0, DType::kQ5_1, DType::kIq4Nl}) {
    for (const bool transposed : {false, true}) {
      BlockFields fields;
      fields.key_type = key;
      fields.value_type = transposed ? DType::kF16 : key;
      fields.v_trans = transposed ? 1 : 0;
      fields.key_values = 128;
      StateBuilder builder;
      builder.sequence_head({-1, 1, 2, 70, 71, 0}).block(fields).bytes("and more");
      const Bytes bytes = builder.take();
      const KvFile file = read_kv(bytes);
      CAPTURE(file.description);
      CHECK(says(file, "packed payload, unified"));
      CHECK(says(file, "8 trailing bytes kept"));
      CHECK(says(file, dtype_name(key)));
      CHECK(file.tokens == std::vector<int32_t>{70, 71});
      CHECK(rebuild(file) == bytes);
    }
  }
}

TEST_CASE("llama state: M-RoPE positions may repeat; ties stay in file order") {
  BlockFields fields;
  fields.ext = true;
  fields.positions = {0, 1, 1, 1, 2};
  const Bytes bytes = small_sequence(fields);
  const KvFile file = read_kv(bytes);
  CHECK(says(file, "extra position words"));
  CHECK(file.tensor.token_sets[0].positions == std::vector<int32_t>{0, 1, 1, 1, 2});
  CHECK(rebuild(file) == bytes);
}

TEST_CASE("llama state: media in a packed payload are kept") {
  StateBuilder builder;
  // Two tokens, one medium at token 1 of 5 bytes, padded to words.
  builder.sequence_head({-1, 1, 2, 70, 71, 1, 1, 5, 0x64636261, 0x00000065}).block({});
  const Bytes bytes = builder.take();
  const KvFile file = read_kv(bytes);
  CHECK(says(file, "1 media"));
  CHECK(rebuild(file) == bytes);
}

TEST_CASE("llama state: streams, of which some are empty") {
  BlockFields fields;
  fields.streams = 4;
  fields.filled_stream = 2;
  const KvFile file = read_kv(small_sequence(fields));
  REQUIRE(file.tensor.token_sets.size() == 1);
  CHECK(file.tensor.token_sets[0].stream == 2);
  CHECK(rebuild(file) == small_sequence(fields));
  // No cells at all: a file without values, but a file.
  fields.positions.clear();
  const KvFile empty = read_kv(small_sequence(fields));
  CHECK(empty.tensor.planes.empty());
  CHECK(rebuild(empty) == small_sequence(fields));
}
