// SPDX-License-Identifier: Apache-2.0
// Converting llama.cpp state files: streams, V layout, cache types, payload, guard cell, a part of the tokens. What a
// conversion leaves alone must not change by a bit, so most cases go there and back.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "formats/llama_state.h"
#include "tests/sample_files.h"
#include "tests/state_builder.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

Result<Bytes> convert(const KvFile& file, const LlamaLayout& layout) {
  return write_llama_state(file.tensor, file.tokens, file.container, layout);
}

LlamaState parsed(const Bytes& bytes) { return must(search_llama_readings(bytes)).front(); }

double relative_distance(const KvTensor& a, const KvTensor& b) {
  REQUIRE(a.planes.size() == b.planes.size());
  double error = 0, squares = 0;
  for (size_t p = 0; p < a.planes.size(); ++p) {
    const KvView& view = a.planes[p].view;
    REQUIRE(view.channels() == b.planes[p].view.channels());
    std::vector<float> x(size_t{view.tokens} * view.channels()), y(x.size());
    load_values(view, 0, view.tokens, x.data());
    load_values(b.planes[p].view, 0, view.tokens, y.data());
    for (size_t i = 0; i < x.size(); ++i) error += (x[i] - y[i]) * (x[i] - y[i]), squares += x[i] * x[i];
  }
  return std::sqrt(error / squares);
}

// A sliding-window file: full cells 0 .. tokens - 1, window cells from `first_in_window` on.
Bytes sliding_file(int32_t tokens, int32_t first_in_window, bool session = false) {
  BlockFields full, window;
  full.positions.clear(), window.positions.clear();
  for (int32_t p = 0; p < tokens; ++p) full.positions.push_back(p);
  for (int32_t p = first_in_window; p < tokens; ++p) window.positions.push_back(p);
  StateBuilder builder;
  if (session) return builder.session_head({1, 2, 3}, "gemma3").block(full).block(window).take();
  return builder.sequence_head().block(full).block(window).take();
}

}  // namespace

TEST_CASE("writing a state file without any change gives the same bytes") {
  for (const std::string folder : {"llama", "zoo"}) {
    for (const std::string& name : samples_in(folder)) {
      CAPTURE(name);
      const Bytes bytes = read_sample(name);
      const KvFile file = read_kv(bytes);
      CHECK(must(convert(file, {})) == bytes);
    }
  }
}

TEST_CASE("four streams to one and back") {
  const Bytes bytes = read_sample("llama/lighthouse-4-streams.slot.bin");
  const KvFile file = read_kv(bytes);
  const uint32_t stream = file.tensor.token_sets[0].stream;
  CHECK(stream > 0);
  const Bytes one = must(convert(file, {.streams = 1}));
  const LlamaState state = parsed(one);
  REQUIRE(state.blocks[0].streams.size() == 1);
  for (const LlamaCell& cell : llama_cells(state.blocks[0].streams[0], false)) {
    int32_t id = -1;
    std::memcpy(&id, cell.record.data() + 8, sizeof id);
    if (id != 0) FAIL("sequence id " << id);
  }
  // Byte for byte what a server with one slot writes: only the values come from another run.
  CHECK(one.size() == read_sample("llama/lighthouse-f16.slot.bin").size());
  CHECK(read_kv(one).container == read_kv(read_sample("llama/lighthouse-f16.slot.bin")).container);
  CHECK(must(convert(read_kv(one), {.streams = 4, .stream = stream})) == bytes);
  check_error(convert(file, {.streams = 2, .stream = 2}), ErrorKind::kInvalidArgument, "stream 2 of 2");
  check_error(convert(file, {.streams = 0}), ErrorKind::kInvalidArgument, "0 streams");
  check_error(convert(file, {.streams = 257}), ErrorKind::kInvalidArgument, "257 streams");
}

TEST_CASE("transposed V to row V and back") {
  for (const std::string name : {"llama/lighthouse-f16-transposed-v.slot.bin", "zoo/gemma2-nofa.bin"}) {
    const Bytes bytes = read_sample(name);
    const KvFile file = read_kv(bytes);
    const Bytes rows = must(convert(file, {.transposed_v = false}));
    const KvFile row_file = read_kv(rows);
    CHECK_FALSE(parsed(rows).blocks[0].streams[0].transposed_v);
    CHECK(relative_distance(file.tensor, row_file.tensor) == 0);
    CHECK(must(convert(row_file, {.transposed_v = true})) == bytes);
  }
  const KvFile row_v = read_kv(read_sample("llama/lighthouse-f16.slot.bin"));
  CHECK(read_kv(must(convert(row_v, {.transposed_v = true}))).container ==
        read_kv(read_sample("llama/lighthouse-f16-transposed-v.slot.bin")).container);
}

TEST_CASE("packed payload to plain and back") {
  const Bytes bytes = read_sample("llama/lighthouse-f16.slot.bin");
  const KvFile file = read_kv(bytes);
  const Bytes plain = must(convert(file, {.packed_payload = false}));
  CHECK(plain.size() == bytes.size() - 16);
  const KvFile plain_file = read_kv(plain);
  CHECK(plain_file.tokens == file.tokens);
  CHECK(plain_file.description.find("plain payload") != std::string::npos);
  CHECK(must(convert(plain_file, {.packed_payload = true})) == bytes);
  check_error(convert(read_kv(read_sample("llama/lighthouse.session.bin")), {.packed_payload = true}),
              ErrorKind::kInvalidArgument, "session file");
  StateBuilder media;
  media.sequence_head({-1, 1, 2, 70, 71, 1, 1, 4, 0x64636261}).block({});
  check_error(convert(read_kv(media.take()), {.packed_payload = false}), ErrorKind::kUnsupported, "1 media");
}

TEST_CASE("cache types: wider and back is exact, quantized ones come close, with the rotation") {
  const ModelFacts facts = nano_facts();
  const Bytes bytes = read_sample("llama/lighthouse-f16.slot.bin");
  const KvFile file = read_kv(bytes, &facts);
  const Bytes wide = must(convert(file, {.key_type = DType::kF32, .value_type = DType::kF32}));
  CHECK(relative_distance(read_kv(wide, &facts).tensor, file.tensor) == 0);
  CHECK(must(convert(read_kv(wide, &facts), {.key_type = DType::kF16, .value_type = DType::kF16})) == bytes);
  const struct {
    DType dtype;
    double tolerance;
  } types[] = {{DType::kBf16, 0.004}, {DType::kQ8_0, 0.01},  {DType::kQ5_1, 0.04}, {DType::kQ5_0, 0.05},
               {DType::kQ4_1, 0.08},  {DType::kIq4Nl, 0.08}, {DType::kQ4_0, 0.09}};
  for (const auto& [dtype, tolerance] : types) {
    CAPTURE(dtype_name(dtype));
    const KvFile other = read_kv(must(convert(file, {.key_type = dtype, .value_type = dtype})), &facts);
    CHECK(other.tensor.planes[0].view.dtype == dtype);
    CHECK(other.tensor.planes[0].view.hadamard_block == (dtype_is_quantized(dtype) ? 64 : 0));
    const double distance = relative_distance(file.tensor, other.tensor);
    CHECK(distance < tolerance);
    CHECK(distance > 0);
  }
  // K alone, and what llama.cpp cannot have.
  const KvFile mixed = read_kv(must(convert(file, {.key_type = DType::kQ8_0})), &facts);
  CHECK(mixed.tensor.planes[0].view.dtype == DType::kQ8_0);
  CHECK(mixed.tensor.planes[1].view.dtype == DType::kF16);
  check_error(convert(file, {.transposed_v = true, .value_type = DType::kQ8_0}), ErrorKind::kUnsupported,
              "transposed V");
}

TEST_CASE("a real q8_0 cache to f16 is the same context, and back the same blocks") {
  const ModelFacts facts = nano_facts();
  const Bytes bytes = read_sample("llama/lighthouse-q8_0.slot.bin");
  const KvFile file = read_kv(bytes, &facts);
  const Bytes half = must(convert(file, {.key_type = DType::kF16, .value_type = DType::kF16}));
  const KvFile half_file = read_kv(half, &facts);
  CHECK(half_file.container == read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts).container);
  CHECK(relative_distance(file.tensor, half_file.tensor) < 1e-3);  // rounding to f16
  const KvFile back = read_kv(must(convert(half_file, {.key_type = DType::kQ8_0, .value_type = DType::kQ8_0})), &facts);
  CHECK(relative_distance(file.tensor, back.tensor) < 1e-2);
  CHECK(back.container == file.container);
  // Without a model the size of the heads, and so the rotation, would be a guess.
  const KvFile guessed = read_kv(bytes);
  check_error(convert(guessed, {.key_type = DType::kF16}), ErrorKind::kUnsupported, "head size");
}

TEST_CASE("rows that are no whole blocks cannot be quantized") {
  BlockFields fields;
  fields.key_values = 48;
  const KvFile file = read_kv(small_sequence(fields));
  check_error(convert(file, {.key_type = DType::kQ8_0}), ErrorKind::kInvalidArgument, "needs a multiple of 32");
}

TEST_CASE("guard cell: one zero cell two before the window, once, where there is room for it") {
  const Bytes bytes = sliding_file(10, 6);
  const KvFile file = read_kv(bytes);
  REQUIRE(file.module == "iSWA");
  CHECK(swa_guard_cell_possible(file.tensor, file.container));
  const Bytes guarded = must(convert(file, {.swa_guard_cell = true}));
  const LlamaState state = parsed(guarded);
  CHECK(state.blocks[0].streams[0].cells == 10);
  const LlamaStream& window = state.blocks[1].streams[0];
  REQUIRE(window.cells == 5);
  CHECK(llama_cells(window, false)[0].position == 10 - 4 - 2);
  CHECK(llama_cells(window, false)[1].position == 6);
  // Values: zeros in the new cell, the others as they were.
  const LlamaState before = parsed(bytes);
  for (size_t layer = 0; layer < 2; ++layer) {
    for (const bool value : {false, true}) {
      const LlamaPlane& plane = value ? window.values[layer] : window.keys[layer];
      const LlamaPlane& old =
          value ? before.blocks[1].streams[0].values[layer] : before.blocks[1].streams[0].keys[layer];
      CHECK(Bytes(plane.row_bytes) ==
            Bytes(guarded.data() + plane.offset, guarded.data() + plane.offset + plane.row_bytes));
      CHECK(std::memcmp(guarded.data() + plane.offset + plane.row_bytes, bytes.data() + old.offset, old.bytes) == 0);
    }
  }
  const KvFile again = read_kv(guarded);
  CHECK_FALSE(swa_guard_cell_possible(again.tensor, again.container));
  CHECK(must(convert(again, {.swa_guard_cell = true})) == guarded);
  // The window's first position is 1: the guard cell would be at -1. Then a session file, then no window at all.
  for (const Bytes& none : {sliding_file(10, 1), sliding_file(10, 6, true), small_sequence()}) {
    const KvFile unguarded = read_kv(none);
    CHECK_FALSE(swa_guard_cell_possible(unguarded.tensor, unguarded.container));
    CHECK(must(convert(unguarded, {.swa_guard_cell = true})) == none);
  }
  const KvFile smallest = read_kv(sliding_file(10, 2));
  CHECK(swa_guard_cell_possible(smallest.tensor, smallest.container));
  CHECK(
      llama_cells(parsed(must(convert(smallest, {.swa_guard_cell = true}))).blocks[1].streams[0], false)[0].position ==
      0);
}

TEST_CASE("a file from a tensor alone") {
  const KvFile file = read_kv(small_sequence());
  const Bytes made = must(write_llama_state(file.tensor, {7, 8, 9}, {}, {}));
  CHECK(made == small_sequence());
  const Bytes packed =
      must(write_llama_state(file.tensor, {7, 8, 9}, {}, {.streams = 3, .stream = 1, .packed_payload = true}));
  const KvFile back = read_kv(packed);
  CHECK(back.tokens == std::vector<int32_t>{7, 8, 9});
  CHECK(back.tensor.token_sets[0].stream == 1);
  CHECK(relative_distance(file.tensor, back.tensor) == 0);
  const KvFile sliding = read_kv(sliding_file(10, 6));
  CHECK(must(write_llama_state(sliding.tensor, {7, 8, 9}, {}, {})) == sliding_file(10, 6));
}

TEST_CASE("state that is not attention KV goes along unchanged or says that it cannot") {
  const Bytes bytes = read_sample("zoo/jamba.bin");
  const KvFile hybrid = read_kv(bytes);
  const LlamaState before = parsed(bytes);
  const Bytes transposed = must(convert(hybrid, {.transposed_v = true}));
  const LlamaState state = parsed(transposed);
  REQUIRE(state.blocks.size() == 2);
  REQUIRE(before.blocks.size() == 2);
  CHECK(std::equal(state.blocks[1].opaque.begin(), state.blocks[1].opaque.end(), before.blocks[1].opaque.begin(),
                   before.blocks[1].opaque.end()));
  check_error(convert(hybrid, {.streams = 4}), ErrorKind::kUnsupported, "hybrid");
  check_error(convert(hybrid, {.key_type = DType::kF32}), ErrorKind::kUnsupported, "hybrid");
  KvTensor some = hybrid.tensor;
  some.planes.pop_back();
  check_error(write_llama_state(some, hybrid.tokens, hybrid.container, {}), ErrorKind::kUnsupported, "all layers only");
}
