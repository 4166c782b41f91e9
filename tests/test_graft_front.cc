// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "formats/byte_io.h"
#include "formats/kv_file.h"
#include "net/engine/graft_front.h"

using namespace kvpack;

namespace {

Bytes sample_state() {
  return read_whole_file(std::string(KVPACK_SAMPLES_DIR) + "/llama/lighthouse-f16.slot.bin").value();
}

// The same file with other values in tokens [begin, end): every byte of theirs flipped.
Bytes with_other_values(const Bytes& state, uint32_t begin, uint32_t end) {
  const KvFile file = read_kv_file(state, {}).value();
  KvFileImage image = open_container(file.format, file.container, {}).value();
  for (size_t p = 0; p < image.planes.size(); ++p) {
    const KvView& from = file.tensor.planes[p].view;
    Bytes rows(from.tokens * from.packed_row_bytes());
    load_raw(from, 0, from.tokens, rows.data());
    for (uint64_t i = begin * from.packed_row_bytes(); i < end * from.packed_row_bytes(); ++i) rows[i] = ~rows[i];
    store_raw(image.planes[p], 0, from.tokens, rows.data());
  }
  return std::move(*image.bytes);
}

Result<Bytes> graft(Bytes fetched, Bytes engine_state, uint32_t tokens) {
  return graft_front(std::move(fetched), std::make_shared<const FileBytes>(std::move(engine_state)), tokens);
}

}  // namespace

TEST_CASE("graft: the front is the engine's, everything else the fetched file's") {
  const Bytes state = sample_state();
  // Fetched: a wrong front. Engine: right up to 500, then wrong.
  const auto whole = graft(with_other_values(state, 0, 500), with_other_values(state, 500, 1283), 500);
  REQUIRE(whole.ok());
  CHECK(*whole == state);
  const auto less = graft(with_other_values(state, 0, 500), state, 499);
  REQUIRE(less.ok());
  CHECK(*less == with_other_values(state, 499, 500));
  CHECK(graft(state, state, 0).value() == state);
}

TEST_CASE("graft: halves that do not fit are refused") {
  const Bytes state = sample_state();
  const auto quantized = read_whole_file(std::string(KVPACK_SAMPLES_DIR) + "/llama/lighthouse-q8_0.slot.bin");
  REQUIRE(quantized.ok());
  CHECK(graft(state, *quantized, 10).error().kind == ErrorKind::kInvalidArgument);
  CHECK_FALSE(graft(state, state, 5000).ok());
  CHECK_FALSE(graft(state, Bytes(100), 10).ok());
  const auto two_sets = read_whole_file(std::string(KVPACK_SAMPLES_DIR) + "/zoo/gemma2.bin");
  REQUIRE(two_sets.ok());
  CHECK(graft(*two_sets, *two_sets, 1).error().kind == ErrorKind::kUnsupported);
}
