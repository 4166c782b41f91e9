// SPDX-License-Identifier: Apache-2.0
// Tokens cut out of a state file and put into one: every layout that llama.cpp writes, and what does not fit.
#include <doctest/doctest.h>

#include "formats/byte_io.h"
#include "formats/kv_range.h"
#include "tests/must.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

std::shared_ptr<const FileBytes> shared(Bytes bytes) { return std::make_shared<const FileBytes>(std::move(bytes)); }
Bytes cut(const Bytes& state, uint32_t begin, uint32_t end) { return must(cut_range(shared(state), {begin, end})); }

struct Held {
  TokenRange range;
  std::vector<int32_t> tokens;
  std::vector<Bytes> rows;  // [plane]
  bool operator==(const Held&) const = default;
};

Held held(const Bytes& state) {
  const KvFile file = must(read_kv_file(state, {}));
  Held held{must(range_of(file)), file.tokens, {}};
  for (const KvPlane& plane : file.tensor.planes) {
    held.rows.emplace_back(plane.view.tokens * plane.view.packed_row_bytes());
    load_raw(plane.view, 0, plane.view.tokens, held.rows.back().data());
  }
  return held;
}

}  // namespace

TEST_CASE("range: cut in three and joined again, a state holds what it held") {
  for (const char* name : {"llama/lighthouse-f16.slot.bin", "llama/lighthouse-q8_0.slot.bin",
                           "llama/lighthouse-f16-transposed-v.slot.bin", "llama/lighthouse-4-streams.slot.bin"}) {
    CAPTURE(name);
    const Bytes state = read_sample(name);
    const Held whole = held(state);
    const uint32_t end = whole.range.end;
    REQUIRE(whole.range.begin == 0);
    const Bytes front = cut(state, 0, 400), middle = cut(state, 400, 901), back = cut(state, 901, UINT32_MAX);
    CHECK(held(middle).range == TokenRange{400, 901});
    CHECK(held(middle).tokens == std::vector<int32_t>(whole.tokens.begin() + 400, whole.tokens.begin() + 901));
    CHECK(held(back).range == TokenRange{901, end});
    const Bytes joined = must(join_range(shared(must(join_range(shared(front), shared(middle)))), shared(back)));
    CHECK(held(joined) == whole);
    // Over what is there, overlapping, and once more of a part.
    CHECK(held(must(join_range(shared(state), shared(middle)))) == whole);
    CHECK(held(must(join_range(shared(cut(state, 0, 500)), shared(cut(state, 450, UINT32_MAX))))) == whole);
    CHECK(held(cut(middle, 450, 460)).range == TokenRange{450, 460});
  }
}

TEST_CASE("range: what does not fit is refused") {
  const Bytes state = read_sample("llama/lighthouse-f16.slot.bin");
  const auto kind_of = [](const auto& result) {
    REQUIRE_FALSE(result.ok());
    return result.error().kind;
  };
  for (const TokenRange range :
       {TokenRange{0, 5000}, TokenRange{5000, UINT32_MAX}, TokenRange{7, 7}, TokenRange{9, 3}}) {
    CHECK(kind_of(cut_range(shared(state), range)) == ErrorKind::kInvalidArgument);
  }
  const Bytes front = cut(state, 0, 100);
  CHECK(kind_of(cut_range(shared(cut(state, 50, 100)), {0, 60})) == ErrorKind::kInvalidArgument);
  CHECK(kind_of(join_range(shared(front), shared(cut(state, 101, 200)))) == ErrorKind::kInvalidArgument);  // a gap
  CHECK(kind_of(join_range(shared(cut(state, 50, 100)), shared(front))) == ErrorKind::kInvalidArgument);
  const Bytes quantized = read_sample("llama/lighthouse-q8_0.slot.bin");
  CHECK(kind_of(join_range(shared(front), shared(cut(quantized, 100, 200)))) == ErrorKind::kInvalidArgument);
  CHECK(kind_of(join_range(shared(state), shared(read_sample("smollm2-harbour.slot.bin")))) ==
        ErrorKind::kInvalidArgument);
  // The same planes, other tokens.
  KvFile other = must(read_kv_file(cut(state, 90, 110), {}));
  other.tokens[3] += 1;
  const Bytes changed = must(write_llama_state(other.tensor, other.tokens, other.container, {}));
  CHECK(kind_of(join_range(shared(front), shared(changed))) == ErrorKind::kInvalidArgument);
  CHECK(kind_of(cut_range(shared(read_sample("zoo/gemma2.bin")), {0, 10})) == ErrorKind::kUnsupported);
  CHECK_FALSE(cut_range(shared(Bytes(100)), {0, 10}).ok());
  CHECK_FALSE(join_range(shared(state), shared(Bytes(100))).ok());
}

}  // namespace kvpack::test
