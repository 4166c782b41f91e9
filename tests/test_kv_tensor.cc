// SPDX-License-Identifier: Apache-2.0
// Views: any strides, any type, any row order, no copies and no byte outside.
#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "formats/kv_planes.h"
#include "formats/kv_tensor.h"

using namespace kvpack;

namespace {

constexpr uint32_t kTokens = 7, kHeads = 3, kDim = 32;
constexpr uint32_t kValues = kTokens * kHeads * kDim;
constexpr std::byte kUntouched{0xa5};

struct Layout {
  const char* name;
  uint64_t token_stride, head_stride, channel_stride;  // in elements
};
constexpr Layout kLayouts[] = {
    {"rows", kHeads* kDim, kDim, 1},                      // llama.cpp
    {"heads first", kDim, kTokens* kDim, 1},              // transformers
    {"transposed", 1, kTokens* kDim, kTokens},            // llama.cpp without flash attention
    {"padded rows", kHeads*(kDim + 5) + 3, kDim + 5, 1},  // somebody's own
};

struct Plane {
  Bytes storage;
  MutableKvView view;
};

Plane make_plane(const Layout& layout, DType dtype) {
  const uint64_t element = dtype_block_bytes(dtype);
  Plane plane;
  const uint64_t last =
      (kTokens - 1) * layout.token_stride + (kHeads - 1) * layout.head_stride + (kDim - 1) * layout.channel_stride;
  plane.storage.assign((last + 1) * element, kUntouched);
  plane.view = make_row_view(plane.storage.data(), dtype, kTokens, kHeads, kDim);
  plane.view.token_stride = layout.token_stride * element;
  plane.view.head_stride = layout.head_stride * element;
  plane.view.channel_stride = layout.channel_stride * element;
  return plane;
}

std::vector<float> counting_values() {
  std::vector<float> values(kValues);
  std::iota(values.begin(), values.end(), -300.0f);  // exact in f16; bf16 holds integers up to 256
  for (float& value : values) value = static_cast<float>(static_cast<int>(value) % 256);
  return values;
}

}  // namespace

TEST_CASE("views: every layout and plain type holds the same values") {
  const std::vector<float> values = counting_values();
  for (const Layout& layout : kLayouts) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
      CAPTURE(layout.name);
      CAPTURE(dtype_name(dtype));
      Plane plane = make_plane(layout, dtype);
      store_values(plane.view, 0, kTokens, values.data());
      std::vector<float> loaded(kValues, -1);
      load_values(plane.view, 0, kTokens, loaded.data());
      CHECK(loaded == values);
      std::vector<float> part(2 * kHeads * kDim);
      load_values(slice_tokens(KvView(plane.view), 3, 2), 0, 2, part.data());
      CHECK(std::equal(part.begin(), part.end(), values.begin() + 3 * kHeads * kDim));
    }
  }
}

TEST_CASE("views: raw bytes go from any layout to any other") {
  const std::vector<float> values = counting_values();
  for (const Layout& from_layout : kLayouts) {
    for (const Layout& to_layout : kLayouts) {
      Plane from = make_plane(from_layout, DType::kF16);
      Plane to = make_plane(to_layout, DType::kF16);
      store_values(from.view, 0, kTokens, values.data());
      copy_plane(from.view, to.view);
      std::vector<float> loaded(kValues);
      load_values(to.view, 0, kTokens, loaded.data());
      CHECK(loaded == values);
    }
  }
}

TEST_CASE("views: bytes between the values are not written") {
  Plane plane = make_plane(kLayouts[3], DType::kF16);
  const std::vector<float> values(kValues, 0.0f);
  store_values(plane.view, 0, kTokens, values.data());
  size_t untouched = 0;
  for (const std::byte byte : plane.storage) untouched += byte == kUntouched ? 1 : 0;
  CHECK(untouched == plane.storage.size() - kValues * 2);
}

TEST_CASE("views: tokens in another order than the rows") {
  const std::vector<uint32_t> rows = {6, 0, 3, 1, 5, 2, 4};
  const std::vector<float> values = counting_values();
  for (const DType dtype : {DType::kF16, DType::kQ8_0}) {
    Plane plane = make_plane(kLayouts[0], DType::kF32);
    MutableKvView view = make_row_view(plane.storage.data(), dtype, kTokens, kHeads, kDim);
    store_values(view, 0, kTokens, values.data());
    std::vector<float> plain(kValues), shuffled(kValues);
    load_values(view, 0, kTokens, plain.data());
    view.row_of_token = rows.data();
    load_values(view, 0, kTokens, shuffled.data());
    constexpr size_t kRow = kHeads * kDim;
    for (uint32_t t = 0; t < kTokens; ++t) {
      CHECK(std::memcmp(&shuffled[t * kRow], &plain[rows[t] * kRow], kRow * sizeof(float)) == 0);
    }
    // A slice moves along the order, not along the rows.
    std::vector<float> slice(kRow);
    load_values(slice_tokens(KvView(view), 4, 1), 0, 1, slice.data());
    CHECK(std::memcmp(slice.data(), &plain[5 * kRow], kRow * sizeof(float)) == 0);
    Bytes raw(view.packed_row_bytes() * kTokens);
    load_raw(view, 0, kTokens, raw.data());
    const Bytes before(plane.storage);
    store_raw(view, 0, kTokens, raw.data());
    CHECK(plane.storage == before);
  }
}

TEST_CASE("views: raw loads keep every bit, NaN payloads too") {
  std::mt19937 random(2);
  for (const Layout& layout : kLayouts) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
      Plane plane = make_plane(layout, dtype);
      for (std::byte& byte : plane.storage) byte = static_cast<std::byte>(random());
      Bytes raw(plane.view.packed_row_bytes() * kTokens);
      load_raw(plane.view, 0, kTokens, raw.data());
      Plane copy = make_plane(layout, dtype);
      store_raw(copy.view, 0, kTokens, raw.data());
      Bytes again(raw.size());
      load_raw(copy.view, 0, kTokens, again.data());
      CHECK(again == raw);
    }
  }
}

TEST_CASE("tensors: counts of values and bytes") {
  KvTensor tensor;
  CHECK(tensor.values() == 0);
  CHECK(tensor.raw_bytes() == 0);
  tensor.token_sets.resize(2);
  tensor.planes.push_back({0, Side::kKey, 0, -1, make_row_view<const std::byte>(nullptr, DType::kF16, 10, 2, 64)});
  tensor.planes.push_back({0, Side::kValue, 0, -1, make_row_view<const std::byte>(nullptr, DType::kQ8_0, 10, 2, 32)});
  tensor.planes.push_back({1, Side::kKey, 1, -1, make_row_view<const std::byte>(nullptr, DType::kF32, 3, 1, 5)});
  CHECK(tensor.values() == 10 * 128 + 10 * 64 + 15);
  CHECK(tensor.raw_bytes() == 10 * 256 + 10 * 68 + 60);
}

TEST_CASE("planes of a tensor file are checked against the model") {
  ModelFacts facts;
  facts.layers.assign(2, LayerFacts{2, 64, 32, 0, false, false});
  KvPlane plane{0, Side::kKey, 0, -1, make_row_view<const std::byte>(nullptr, DType::kF16, 4, 2, 64)};
  CHECK(match_facts(nullptr, plane).ok());
  CHECK(plane.rope == -1);
  CHECK(match_facts(&facts, plane).ok());
  CHECK(plane.rope == 0);
  KvPlane value = plane;
  value.side = Side::kValue;
  value.rope = -1;
  Status status = match_facts(&facts, value);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().message.find("2 heads of 64, the model 2 of 32") != std::string::npos);
  value.view.head_dim = 32;
  CHECK(match_facts(&facts, value).ok());
  CHECK(value.rope == -1);
  plane.layer = 2;
  status = match_facts(&facts, plane);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().message.find("layer 2") != std::string::npos);
}
