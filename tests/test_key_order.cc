// SPDX-License-Identifier: Apache-2.0
// Keys between llama.cpp's channel order and transformers'.
#include <doctest/doctest.h>

#include <cstring>

#include "formats/key_order.h"
#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

using namespace kvpack;
using namespace kvpack::test;

TEST_CASE("key order: each channel where llama.cpp's converter puts it, values untouched") {
  const std::vector<float> halves = {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17};  // 1 token, 2 heads of 8
  const ByteSpan raw = std::as_bytes(std::span(halves));
  auto bytes = std::make_shared<const FileBytes>(Bytes(raw.begin(), raw.end()));
  KvTensor tensor;
  tensor.storage = bytes;
  tensor.token_sets.resize(1);
  tensor.token_sets[0].positions = {0};
  const KvView view = make_row_view<const std::byte>(bytes->data(), DType::kF32, 1, 2, 8);
  tensor.planes = {{0, Side::kKey, 0, -1, view}, {0, Side::kValue, 0, -1, view}};
  const KvTensor llama = must(with_key_order_of(KvFileFormat::kLlamaState, tensor));
  std::vector<float> keys(16), values(16);
  load_values(llama.planes[0].view, 0, 1, keys.data());
  load_values(llama.planes[1].view, 0, 1, values.data());
  CHECK(keys == std::vector<float>{0, 4, 1, 5, 2, 6, 3, 7, 10, 14, 11, 15, 12, 16, 13, 17});
  CHECK(values == halves);
  const KvTensor back = must(with_key_order_of(KvFileFormat::kSafetensors, llama));
  load_values(back.planes[0].view, 0, 1, keys.data());
  CHECK(keys == halves);
  tensor.planes[0].view.head_dim = 5;
  check_error(with_key_order_of(KvFileFormat::kLlamaState, tensor), ErrorKind::kUnsupported, "5 channels");
}

TEST_CASE("key order: only architectures that the converter permutes, only between the two programs") {
  using enum KvFileFormat;
  CHECK(key_order_differs("llama", kLlamaState, kSafetensors));
  CHECK(key_order_differs("mistral", kNpy, kLlamaState));
  CHECK_FALSE(key_order_differs("llama", kSafetensors, kNpy));
  CHECK_FALSE(key_order_differs("llama", kLlamaState, kLlamaState));
  CHECK_FALSE(key_order_differs("qwen2", kLlamaState, kSafetensors));
  CHECK_FALSE(key_order_differs("gemma3", kLlamaState, kSafetensors));
  CHECK_FALSE(key_order_differs("", kLlamaState, kSafetensors));
}

TEST_CASE("key order: un-rotated keys agree in both orders") {
  // The same keys, un-rotated pair by pair as each program pairs them, must be the same vectors but for the order.
  const ModelFacts facts = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  const KvTensor reordered = must(with_key_order_of(KvFileFormat::kSafetensors, file.tensor));
  const Bytes written = must(write_safetensors(reordered, file.tokens, std::nullopt));
  const KvFile transformers = read_kv(written, &facts);
  REQUIRE(transformers.facts.has_value());
  const KvTensor again = must(with_key_order_of(KvFileFormat::kLlamaState, transformers.tensor));
  CHECK(relative_error(file.tensor, again) == 0);
  const uint32_t token = 1000;
  std::vector<float> a(128), b(128);
  load_values(file.tensor.planes[0].view, token, 1, a.data());
  load_values(transformers.tensor.planes[0].view, token, 1, b.data());
  const std::vector<int32_t> position = {static_cast<int32_t>(token)};
  RopeRotation(facts.ropes[0], position).undo(a, 2, 64);
  RopeRotation(transformers.facts->ropes[0], position).undo(b, 2, 64);
  for (uint32_t head = 0; head < 2; ++head) {
    for (uint32_t j = 0; j < 32; ++j) {
      CHECK(b[head * 64 + j] == doctest::Approx(a[head * 64 + 2 * j]).epsilon(1e-5));
      CHECK(b[head * 64 + j + 32] == doctest::Approx(a[head * 64 + 2 * j + 1]).epsilon(1e-5));
    }
  }
}
