// SPDX-License-Identifier: Apache-2.0
// Parts of a context out of a real llama.cpp and into it again, and some of its tokens computed anew.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/kv_file.h"
#include "net/engine/libllama_engine.h"
#include "tests/engine/run_program.h"
#include "tests/engine/scratch_folder.h"
#include "tests/must.h"

namespace kvpack::engine {
namespace {

using test::must;

constexpr uint32_t kContext = 300;

struct Ranges {
  std::unique_ptr<LibllamaEngine> engine = open(true);
  std::vector<int32_t> context;
  int32_t next = 0;  // token behind the context

  static std::unique_ptr<LibllamaEngine> open(bool flash_attention) {
    EngineOptions options;
    options.n_ctx = 1024;
    options.flash_attention = flash_attention;
    return must(LibllamaEngine::open(KVPACK_LLAMA_LIB, KVPACK_SAMPLES_DIR "/nano-f16.gguf", options));
  }
  Ranges() {
    const Bytes text = must(read_file(KVPACK_SAMPLES_DIR "/lighthouse.txt"));
    context = must(engine->tokenize(std::string(as_text(text)), PromptPart::kBeginning));
    next = context[kContext];
    context.resize(kContext);
    must(engine->prefill(context));
  }
  std::vector<Prediction> predict() {
    std::vector<int32_t> prompt = context;
    prompt.push_back(next);
    return must(engine->predict(prompt, 5));
  }
  Bytes part(uint32_t begin, uint32_t end) {
    const auto state = must(engine->export_range({begin, end}));
    const ByteSpan bytes = *state;
    return {bytes.begin(), bytes.end()};
  }
  Bytes whole() { return part(0, kContext); }
};

void check_same(const std::vector<Prediction>& a, const std::vector<Prediction>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].token == b[i].token);
    CHECK(std::abs(a[i].log_probability - b[i].log_probability) <= tolerance);
  }
}

constexpr double kOtherOrder = 0.02;  // of log-probabilities, where sums were made in another order

// Largest difference of two states' values, relative to the largest value.
double difference(const Bytes& a, const Bytes& b) {
  const KvFile x = must(read_kv_file(a, {}));
  const KvFile y = must(read_kv_file(b, {}));
  REQUIRE(x.tokens == y.tokens);
  double most = 0, largest = 0;
  for (size_t p = 0; p < x.tensor.planes.size(); ++p) {
    const KvView& view = x.tensor.planes[p].view;
    std::vector<float> u(size_t{view.tokens} * view.channels()), v(u.size());
    load_values(view, 0, view.tokens, u.data());
    load_values(y.tensor.planes[p].view, 0, view.tokens, v.data());
    for (size_t i = 0; i < u.size(); ++i) {
      most = std::max(most, std::abs(double{u[i]} - double{v[i]}));
      largest = std::max(largest, std::abs(double{u[i]}));
    }
  }
  return most / largest;
}

}  // namespace

TEST_CASE("ranges: cut out and put together again in any order, the engine goes on as from the whole") {
  Ranges ranges;
  const auto expected = ranges.predict();
  const Bytes front = ranges.part(0, 100), middle = ranges.part(100, 220), back = ranges.part(220, kContext);
  const Bytes whole = ranges.whole();
  const KvFile file = must(read_kv_file(middle, {}));
  CHECK(file.tokens == std::vector<int32_t>(ranges.context.begin() + 100, ranges.context.begin() + 220));
  CHECK(file.tensor.token_sets[0].positions.front() == 100);
  CHECK(file.tensor.token_sets[0].positions.back() == 219);

  REQUIRE(ranges.engine->erase_kv().ok());
  CHECK(must(ranges.engine->import_range(front)) == TokenRange{0, 100});
  CHECK(must(ranges.engine->import_range(back)) == TokenRange{220, kContext});
  CHECK(ranges.engine->export_kv().error().kind == ErrorKind::kInvalidArgument);  // the gap
  CHECK(must(ranges.engine->import_range(middle)) == TokenRange{100, 220});
  // The cells lie in another order now, in which llama.cpp sums.
  CHECK(difference(ranges.whole(), whole) == 0);
  check_same(ranges.predict(), expected, kOtherOrder);
  CHECK(must(ranges.engine->prefill(ranges.context)).reused_tokens == kContext);

  // The same once more over what is there.
  CHECK(must(ranges.engine->import_range(middle)) == TokenRange{100, 220});
  CHECK(difference(ranges.whole(), whole) == 0);
  check_same(ranges.predict(), expected, kOtherOrder);
  // With a gap, all behind it is computed.
  REQUIRE(ranges.engine->erase_kv().ok());
  must(ranges.engine->import_range(front));
  must(ranges.engine->import_range(back));
  CHECK(must(ranges.engine->prefill(ranges.context)).reused_tokens == 100);
  check_same(ranges.predict(), expected, kOtherOrder);
}

TEST_CASE("ranges: tokens computed anew are what a prefill makes of them") {
  Ranges ranges;
  const auto expected = ranges.predict();
  must(ranges.engine->prefill(ranges.context));
  const Bytes whole = ranges.whole();
  for (const std::vector<uint32_t>& chosen :
       {std::vector<uint32_t>{0}, {0, 1, 2, 50}, {17, 99, 100, 101, 250}, {kContext - 1}, {5, 298, 299}}) {
    const PrefillReport report = must(ranges.engine->recompute(ranges.context, chosen));
    CHECK(report.computed_tokens == chosen.size());
    CHECK(report.reused_tokens == kContext - chosen.size());
    CHECK(difference(ranges.whole(), whole) < 2e-3);
  }
  check_same(ranges.predict(), expected, kOtherOrder);

  // Foreign values in the middle: the tokens themselves are mended, what saw them stays.
  Bytes foreign = ranges.part(100, 140);
  {
    const KvFile file = must(read_kv_file(foreign, {}));
    KvFileImage image = must(open_container(file.format, file.container, {}));
    for (const MutableKvView& plane : image.planes) {
      const std::vector<float> zeros(size_t{40} * plane.channels());
      store_values(plane, 0, 40, zeros.data());
    }
    foreign = std::move(*image.bytes);
  }
  must(ranges.engine->prefill(ranges.context));
  must(ranges.engine->import_range(foreign));
  CHECK(difference(ranges.whole(), whole) > 0.1);
  std::vector<uint32_t> all(40);
  for (uint32_t i = 0; i < 40; ++i) all[i] = 100 + i;
  must(ranges.engine->recompute(ranges.context, all));
  CHECK(difference(ranges.whole(), whole) < 2e-3);
}

TEST_CASE("ranges: what does not fit is refused, and the engine has what it had") {
  Ranges ranges;
  const Bytes whole = ranges.whole();
  const auto refused = [&](const auto& result, ErrorKind kind) {
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().kind == kind);
    CHECK(ranges.whole() == whole);
  };
  refused(ranges.engine->export_range({0, kContext + 1}), ErrorKind::kInvalidArgument);
  refused(ranges.engine->export_range({20, 20}), ErrorKind::kInvalidArgument);
  refused(ranges.engine->export_range({kContext, UINT32_MAX}), ErrorKind::kInvalidArgument);
  refused(ranges.engine->recompute(ranges.context, std::vector<uint32_t>{kContext}), ErrorKind::kInvalidArgument);
  refused(ranges.engine->recompute(ranges.context, std::vector<uint32_t>{7, 7}), ErrorKind::kInvalidArgument);
  refused(ranges.engine->recompute(std::vector<int32_t>{1, 2, 3}, std::vector<uint32_t>{1}),
          ErrorKind::kInvalidArgument);
  // Other tokens at the same positions.
  Bytes other = ranges.part(10, 20);
  int32_t token = 0;
  std::memcpy(&token, other.data() + 12, sizeof token);  // the first of the list
  ++token;
  std::memcpy(other.data() + 12, &token, sizeof token);
  refused(ranges.engine->import_range(other), ErrorKind::kInvalidArgument);
  CHECK_FALSE(ranges.engine->import_range(as_byte_span("no state")).ok());
  const Bytes cut(whole.begin(), whole.end() - 1);
  CHECK_FALSE(ranges.engine->import_range(cut).ok());
  CHECK(ranges.whole() == whole);
  // Of a cache that is laid out otherwise, and of another model.
  const auto transposed = Ranges::open(false);
  must(transposed->prefill(ranges.context));
  const auto state = must(transposed->export_range({0, 50}));
  CHECK_FALSE(ranges.engine->import_range(*state).ok());
  CHECK_FALSE(ranges.engine->import_range(must(read_file(KVPACK_SAMPLES_DIR "/smollm2-harbour.slot.bin"))).ok());
  CHECK(ranges.whole() == whole);
  check_same(
      ranges.predict(),
      [&] {
        Ranges fresh;
        return fresh.predict();
      }(),
      0);
}

TEST_CASE("ranges: blended by llama.cpp, a context is what the library's own pass makes of it") {
  const ScratchFolder folder;
  const std::string chunk = KVPACK_SAMPLES_DIR "/llama/lighthouse-f16.slot.bin";
  const auto blend = [&](const std::string& by, const std::string& select) {
    const std::string out = folder.file(by + ".slot");
    must(run_program({KVPACK_PROGRAM,
                      "-q",
                      "blend",
                      chunk,
                      chunk,
                      "-m",
                      KVPACK_SAMPLES_DIR "/nano-f16.gguf",
                      "--query-tokens",
                      "5,6,7,8,9",
                      "--ratio",
                      "0.02",
                      "--select",
                      select,
                      "--recompute-by",
                      by,
                      "-j",
                      "1",
                      "-f",
                      "-o",
                      out}));
    return must(read_file(out));
  };
  for (const char* select : {"query", "epic"}) {
    CAPTURE(select);
    CHECK(difference(blend("libllama", select), blend("weights", select)) < 0.03);
  }
  must(read_kv_file(blend("libllama", "hkvd"), {}));
}

}  // namespace kvpack::engine
