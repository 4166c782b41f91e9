// SPDX-License-Identifier: Apache-2.0
// Frames through the C header, as another language would use it.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "codec/frame.h"
#include "codec/kvpack.h"
#include "tests/random_kv.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

// A C chunk over a generated file.
struct CChunk {
  KvFile file;
  ModelFacts facts;
  std::vector<kvpack_plane> planes;
  kvpack_rope rope{};
  kvpack_chunk chunk{};

  explicit CChunk(const RandomShape& shape) : file(random_kv_file(shape)), facts(facts_of(shape)) {
    for (const KvPlane& plane : file.tensor.planes) {
      planes.push_back({plane.layer, static_cast<uint32_t>(plane.side), plane.view.kv_heads, plane.view.head_dim,
                        static_cast<uint32_t>(plane.view.dtype), plane.rope, const_cast<std::byte*>(plane.view.data),
                        plane.view.token_stride, plane.view.head_stride, plane.view.channel_stride});
    }
    const Rope& from = facts.ropes[0];
    rope = {static_cast<uint32_t>(from.style), from.first_channel, static_cast<uint32_t>(from.inv_freq.size()),
            from.magnitude, from.inv_freq.data()};
    chunk = {shape.tokens,
             static_cast<uint32_t>(planes.size()),
             1,
             file.tensor.token_sets[0].positions.data(),
             planes.data(),
             &rope};
  }
  Bytes encode(int quality) {
    uint64_t bound = 0;
    REQUIRE(kvpack_frame_bound(&chunk, &bound, nullptr) == KVPACK_OK);
    Bytes frame(bound);
    size_t written = 0;
    REQUIRE_MESSAGE(kvpack_encode_frame(&chunk, quality, UINT64_MAX, frame.data(), frame.size(), &written) == KVPACK_OK,
                    kvpack_last_error());
    frame.resize(written);
    return frame;
  }
};

RandomShape chunk_shape() {
  RandomShape shape;
  shape.tokens = 256;
  shape.layers = 2;
  return shape;
}

}  // namespace

TEST_CASE("a lossless frame gives back the bytes, padded or not, in any strides") {
  CChunk input(chunk_shape());
  Bytes frame = input.encode(KVPACK_LOSSLESS);
  const size_t frame_bytes = frame.size();
  frame.resize(frame.size() + 100);  // a cache tier's padding
  kvpack_frame_info info;
  REQUIRE(kvpack_read_frame_info(frame.data(), frame.size(), &info) == KVPACK_OK);
  CHECK(info.frame_bytes == frame_bytes);
  CHECK(info.tokens == 256);
  CHECK(info.n_planes == 4);
  CHECK(info.raw_bytes == input.file.tensor.raw_bytes());
  std::vector<kvpack_plane> out(info.n_planes);
  REQUIRE(kvpack_read_frame_planes(frame.data(), frame.size(), out.data(), info.n_planes) == KVPACK_OK);
  Bytes storage(info.raw_bytes);
  std::byte* at = storage.data();
  for (kvpack_plane& plane : out) {
    // Head-major: [kv_head][token][head_dim].
    plane.data = at;
    plane.token_stride = uint64_t{2} * plane.head_dim;
    plane.head_stride = plane.token_stride * info.tokens;
    at += plane.head_stride * plane.kv_heads;
  }
  std::vector<int32_t> positions(info.tokens);
  REQUIRE(kvpack_decode_frame(frame.data(), frame.size(), UINT32_MAX, UINT64_MAX, out.data(), info.n_planes,
                              positions.data()) == KVPACK_OK);
  CHECK(positions == input.file.tensor.token_sets[0].positions);
  const auto* decoded = static_cast<const std::byte*>(out[3].data);
  const std::byte* source = input.file.tensor.planes[3].view.data;
  for (uint32_t token : {0u, 17u, 255u}) {
    for (uint32_t head : {0u, 1u}) {
      CHECK(std::memcmp(decoded + head * out[3].head_stride + token * out[3].token_stride,
                        source + token * 256 + head * 128, 128) == 0);
    }
  }
}

TEST_CASE("lossy frames: smaller, ordered, levels") {
  CChunk input(chunk_shape());
  const Bytes high = input.encode(KVPACK_HIGH);
  const Bytes low = input.encode(KVPACK_LOW);
  CHECK(low.size() < high.size());
  CHECK(high.size() < input.file.tensor.raw_bytes());
  double last = 1e9;
  for (uint32_t level = 0; level < 3; ++level) {
    Bytes storage(input.file.tensor.raw_bytes());
    std::vector<MutableKvView> views;
    KvTensor decoded = input.file.tensor;
    std::byte* at = storage.data();
    for (KvPlane& plane : decoded.planes) {
      views.push_back(make_row_view<std::byte>(at, plane.view.dtype, 256, plane.view.kv_heads, plane.view.head_dim));
      plane.view = views.back();
      at += 256 * plane.view.packed_row_bytes();
    }
    REQUIRE(decode_frame(high, level, views).ok());
    const double error = relative_error(input.file.tensor, decoded);
    CHECK(error < 0.5 * last);
    last = error;
  }
  CHECK(last < 0.05);
}

TEST_CASE("frames: clear codes for bad arguments and damage") {
  RandomShape shape = chunk_shape();
  shape.tokens = 40;
  shape.layers = 1;
  shape.key_dim = shape.value_dim = 8;
  CChunk input(shape);
  const Bytes frame = input.encode(KVPACK_MEDIUM);
  size_t written = 0;
  std::byte small[16];
  CHECK(kvpack_encode_frame(&input.chunk, KVPACK_MEDIUM, UINT64_MAX, small, sizeof small, &written) ==
        KVPACK_BUFFER_TOO_SMALL);
  CHECK(written == frame.size());
  CHECK(kvpack_encode_frame(&input.chunk, KVPACK_MEDIUM, 1000, small, sizeof small, &written) == KVPACK_LIMIT);
  CHECK(kvpack_encode_frame(nullptr, KVPACK_MEDIUM, UINT64_MAX, small, sizeof small, &written) ==
        KVPACK_INVALID_ARGUMENT);
  CHECK(kvpack_encode_frame(&input.chunk, 9, UINT64_MAX, small, sizeof small, &written) == KVPACK_INVALID_ARGUMENT);

  Bytes storage(input.file.tensor.raw_bytes());
  std::vector<kvpack_plane> out(2);
  REQUIRE(kvpack_read_frame_planes(frame.data(), frame.size(), out.data(), 2) == KVPACK_OK);
  std::byte* at = storage.data();
  for (kvpack_plane& plane : out) {
    plane.data = at;
    at += plane.token_stride * shape.tokens;
  }
  CHECK(kvpack_decode_frame(frame.data(), frame.size(), UINT32_MAX, UINT64_MAX, out.data(), 2, nullptr) == KVPACK_OK);
  CHECK(kvpack_decode_frame(frame.data(), frame.size(), UINT32_MAX, UINT64_MAX, out.data(), 1, nullptr) ==
        KVPACK_INVALID_ARGUMENT);
  CHECK(kvpack_decode_frame(frame.data(), frame.size(), UINT32_MAX, 1000, out.data(), 2, nullptr) == KVPACK_LIMIT);
  for (size_t length = 0; length < frame.size(); ++length) {
    const int status = kvpack_decode_frame(frame.data(), length, UINT32_MAX, UINT64_MAX, out.data(), 2, nullptr);
    CHECK((status == KVPACK_CORRUPT || status == KVPACK_NOT_KVPACK));
  }
  for (size_t bit = 0; bit < frame.size() * 8; ++bit) {
    Bytes flipped = frame;
    flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    CHECK(kvpack_decode_frame(flipped.data(), flipped.size(), UINT32_MAX, UINT64_MAX, out.data(), 2, nullptr) !=
          KVPACK_OK);
  }
}
