// SPDX-License-Identifier: Apache-2.0
// Contexts joined from chunks: what is computed again is what a prefill of the whole computes, keys stand at their new
// positions, and each selection takes what its rule says.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/half.h"
#include "net/engine/blend.h"
#include "tests/pack.h"
#include "tests/program_run.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

constexpr uint32_t kFront = 120;  // tokens of the first chunk
constexpr uint32_t kBack = 100;   // of the second, read behind the context's first token alone
constexpr uint32_t kQuery = 20;

struct Nano {
  ModelFacts facts = nano_facts();
  KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  std::unique_ptr<ByteSource> source = must(open_file_source(sample_path("nano-f16.gguf")));
  ModelWeights weights = must(ModelWeights::open(*source, 1));
  ModelAttention attention = must(read_attention_layers(weights, facts, 1));

  std::vector<int32_t> tokens(uint32_t begin, uint32_t end) const {
    return {file.tokens.begin() + begin, file.tokens.begin() + end};
  }
  // The sample's first tokens, as the engine cached them.
  BlendChunk front(uint32_t count) const {
    DecodeOptions options;
    options.positions = {0, count};
    return {"front", unpack(pack(file, &facts, Quality::kLossless), options), tokens(0, count)};
  }
  JoinedContext joined(const std::vector<BlendChunk>& chunks, const std::vector<int32_t>& query,
                       const JoinOptions& options = {}) const {
    return must(JoinedContext::join(chunks, query, facts, options));
  }
  BlendReport run(JoinedContext& context, double ratio, BlendSelect select = BlendSelect::kHkvd) const {
    BlendOptions options;
    options.ratio = ratio;
    options.select = select;
    options.threads = 1;
    return must(blend(context, weights, attention, options));
  }
  // The tokens behind the front, cached without having seen it: the first token, then they.
  BlendChunk back() {
    alone = std::make_unique<JoinedContext>(joined({front(1)}, tokens(kFront, kFront + kBack)));
    run(*alone, 0);
    return {"back", alone->tensor(), alone->tokens()};
  }
  std::unique_ptr<JoinedContext> alone;  // holds what back() returned last
  std::vector<int32_t> query() const { return tokens(kFront + kBack, kFront + kBack + kQuery); }
};

// Squared differences of tokens [begin, end) from the sample's own cache, relative to its power; over these layers.
double deviation(const KvTensor& tensor, const KvFile& file, uint32_t begin, uint32_t end, uint32_t first_layer,
                 uint32_t layers, Side side) {
  double error = 0, power = 0;
  for (size_t p = 0; p < file.tensor.planes.size(); ++p) {
    const KvPlane& plane = file.tensor.planes[p];
    if (plane.side != side || plane.layer < first_layer || plane.layer >= first_layer + layers) continue;
    const auto found = std::find_if(tensor.planes.begin(), tensor.planes.end(),
                                    [&](const KvPlane& o) { return o.layer == plane.layer && o.side == side; });
    REQUIRE(found != tensor.planes.end());
    std::vector<float> x(size_t{end - begin} * plane.view.channels()), y(x.size());
    load_values(plane.view, begin, end - begin, x.data());
    load_values(found->view, begin, end - begin, y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      error += (double{x[i]} - double{y[i]}) * (double{x[i]} - double{y[i]});
      power += double{x[i]} * double{x[i]};
    }
  }
  return error / power;
}

double all_layers(const JoinedContext& context, const KvFile& file, uint32_t begin, uint32_t end) {
  return deviation(context.tensor(), file, begin, end, 0, UINT32_MAX / 2, Side::kKey) +
         deviation(context.tensor(), file, begin, end, 0, UINT32_MAX / 2, Side::kValue);
}

TEST_CASE("blend: the query's keys and values are those of a prefill of the whole") {
  const Nano nano;
  JoinedContext context = nano.joined({nano.front(kFront)}, nano.tokens(kFront, kFront + kBack));
  CHECK(context.tokens() == nano.tokens(0, kFront + kBack));
  CHECK(context.query_begin() == kFront);
  CHECK(all_layers(context, nano.file, kFront, kFront + kBack) > 0.5);  // not there yet
  const BlendReport report = nano.run(context, 0.15);
  CHECK(report.chosen == 0);  // one chunk knows its whole context
  CHECK(all_layers(context, nano.file, kFront, kFront + kBack) < 1e-4);
  CHECK(all_layers(context, nano.file, 0, kFront) < 1e-6);
}

TEST_CASE("blend: keys are turned to where they stand; every token computed again makes the whole context") {
  Nano nano;
  const std::vector<BlendChunk> chunks = {nano.front(kFront), nano.back()};
  const uint32_t end = kFront + kBack;
  JoinedContext stitched = nano.joined(chunks, nano.query(), {1, true});
  CHECK(stitched.tokens() == nano.tokens(0, end + kQuery));
  // Layer 0 depends on the token and its position alone: in f16, twice rounded.
  CHECK(deviation(stitched.tensor(), nano.file, kFront, end, 0, 1, Side::kKey) < 1e-5);
  CHECK(deviation(stitched.tensor(), nano.file, kFront, end, 0, 1, Side::kValue) < 1e-5);
  const JoinedContext unturned = nano.joined(chunks, nano.query(), {1, false});
  CHECK(deviation(unturned.tensor(), nano.file, kFront, end, 0, 1, Side::kKey) > 0.1);

  const double before = all_layers(stitched, nano.file, kFront, end);
  CHECK(before > 1e-3);  // what the chunks do not know of each other
  for (const BlendSelect select : {BlendSelect::kHkvd, BlendSelect::kQuery, BlendSelect::kEpic}) {
    CAPTURE(blend_select_name(select));
    JoinedContext some = nano.joined(chunks, nano.query(), {1, true});
    const BlendReport report = nano.run(some, 0.3, select);
    CHECK(report.chosen > 0);
    CHECK(report.token_layers < report.all_token_layers);
    CHECK(all_layers(some, nano.file, kFront, end) < 0.95 * before);
    JoinedContext all = nano.joined(chunks, nano.query(), {1, true});
    nano.run(all, 1, select);
    CHECK(all_layers(all, nano.file, kFront, end + kQuery) < 1e-4);
  }
}

TEST_CASE("blend: which tokens") {
  const std::vector<uint32_t> candidates = {4, 5, 6, 9};
  const std::vector<float> score = {1, 3, 3, 0};
  CHECK(highest_tokens(candidates, score, 1) == std::vector<uint32_t>{5});
  CHECK(highest_tokens(candidates, score, 2) == std::vector<uint32_t>{5, 6});
  CHECK(highest_tokens(candidates, score, 9) == std::vector<uint32_t>{4, 5, 6});
  CHECK(first_tokens({0, 10, 20, 23}, 4) == std::vector<uint32_t>{10, 11, 20, 21});
  CHECK(first_tokens({0, 10, 20, 23}, 100).size() == 13);
  // Half by place, half by score; the first chunk never.
  std::vector<float> attention(40, 0.1f);
  attention[3] = attention[10] = attention[15] = attention[38] = 1;
  CHECK(attended_tokens({0, 10, 25, 40}, attention, 4) == std::vector<uint32_t>{10, 15, 25, 38});
  CHECK(attended_tokens({0, 10, 25, 40}, attention, 1) == std::vector<uint32_t>{10});
  CHECK(attended_tokens({0, 10, 25, 40}, attention, 0).empty());
  CHECK(attended_tokens({0, 10, 25, 40}, attention, 400).size() == 30);
  CHECK(attended_tokens({0, 10}, std::vector<float>(10, 1.f), 4).empty());
  // No more than eight of a chunk for their place alone.
  const auto many = attended_tokens({0, 100, 200}, std::vector<float>(200, 0.f), 60);
  CHECK(many == std::vector<uint32_t>{100, 101, 102, 103, 104, 105, 106, 107});
  const auto counts = narrowing(100, 1, 5);
  REQUIRE(counts.size() == 5);
  CHECK(counts[0] == UINT32_MAX);
  CHECK(counts[1] == 125);
  CHECK(counts[4] == 75);
  CHECK(hidden_ratio(1, 100, 0.1) == doctest::Approx(0.1));
  CHECK(hidden_ratio(100, 100, 0.1) == 1);
  CHECK(hidden_ratio(0, 100, 0.1) == 0);
}

TEST_CASE("blend: a lossy copy's error is not taken for a need") {
  // Tokens 0 to 3 have no need: the copy's error grows threefold between the layers. Token 5 has one, token 4 is noisy.
  const std::vector<float> noise = {1, 2, 1, 2, 4, 1};
  const std::vector<float> deviations = {3, 6, 3, 6, 12, 10};
  const std::vector<bool> gauge = {true, true, true, true, false, false};
  const auto above = above_noise(deviations, noise, gauge);
  CHECK(above[4] == doctest::Approx(0).epsilon(1e-6));
  CHECK(above[5] == doctest::Approx(5.5));  // 10 - 1.5 x 3
  CHECK(highest_tokens(std::vector<uint32_t>{4, 5}, std::span(above).subspan(4), 1) == std::vector<uint32_t>{5});
}

TEST_CASE("blend: chunks that cannot be joined are refused with the reason") {
  const Nano nano;
  const auto join = [&](const std::vector<BlendChunk>& chunks, uint32_t shared) {
    return JoinedContext::join(chunks, nano.query(), nano.facts, {shared, true});
  };
  CHECK(join({}, 0).error().kind == ErrorKind::kInvalidArgument);
  BlendChunk other = nano.front(30);
  other.tokens[1] += 1;
  CHECK(join({nano.front(30), other}, 2).error().kind == ErrorKind::kInvalidArgument);
  other = nano.front(30);
  other.tensor.planes.pop_back();
  CHECK_FALSE(join({nano.front(30), other}, 1).ok());
  other = nano.front(30);
  other.tensor.token_sets[0].positions[7] += 5;
  CHECK(join({nano.front(30), other}, 1).error().kind == ErrorKind::kUnsupported);
}

// Two chunks of the sample as archives, and what `kvpack blend` makes of them.
struct BlendProgram {
  Nano nano;
  kvpack::engine::ScratchFolder folder;
  std::string a, b, ids;

  explicit BlendProgram(Quality quality) {
    const auto archive = [&](const char* name, const BlendChunk& chunk) {
      const Bytes state = must(write_llama_state(chunk.tensor, chunk.tokens, {}, {}));
      const KvFile file = read_kv(state, &nano.facts);
      REQUIRE(kvpack::engine::write_file(folder.file(name), pack(file, &nano.facts, quality)).ok());
      return folder.file(name);
    };
    a = archive("a.kvp", nano.front(kFront));
    b = archive("b.kvp", nano.back());
    for (const int32_t id : nano.query()) ids += std::to_string(id) + ",";
    ids.pop_back();
  }
  Outcome run(const std::string& output, const std::vector<std::string>& options) const {
    std::vector<std::string> words = {"blend", a, b, "-m", sample_path("nano-f16.gguf"), "-f", "--json"};
    words.insert(words.end(), {"--shared-tokens", "1", "-o", folder.file(output)});
    words.insert(words.end(), options.begin(), options.end());
    if (std::find(words.begin(), words.end(), "--query-tokens") == words.end()) {
      words.insert(words.end(), {"--query-tokens", ids});
    }
    return run_kvpack(words);
  }
  // Deviation of the written file from the sample's own cache, over the second chunk and the query.
  double error_of(const std::string& output) const {
    const KvFile joined = read_kv(must(read_whole_file(folder.file(output))), &nano.facts);
    REQUIRE(joined.tokens == nano.tokens(0, kFront + kBack + kQuery));
    return deviation(joined.tensor, nano.file, kFront, kFront + kBack + kQuery, 0, UINT32_MAX / 2, Side::kKey) +
           deviation(joined.tensor, nano.file, kFront, kFront + kBack + kQuery, 0, UINT32_MAX / 2, Side::kValue);
  }
};

TEST_CASE("kvpack blend: archives in, lossy ones too, a context out") {
  for (const Quality quality : {Quality::kLossless, Quality::kMedium}) {
    CAPTURE(static_cast<int>(quality));
    const BlendProgram program(quality);
    REQUIRE(program.run("none.slot", {"--ratio", "0"}).exit_code == 0);
    const double none = program.error_of("none.slot");
    for (const char* select : {"hkvd", "query", "epic"}) {
      CAPTURE(select);
      const auto part = program.run("part.slot", {"--ratio", "0.3", "--select", select});
      REQUIRE(part.exit_code == 0);
      CHECK(program.error_of("part.slot") < none);
      REQUIRE(program.run("all.slot", {"--ratio", "1", "--select", select}).exit_code == 0);
      // Only what the copy of the first chunk has lost is left, and what its errors do to those who look at it.
      CHECK(program.error_of("all.slot") < (quality == Quality::kLossless ? 1e-4 : 0.35 * none));
      const auto hidden = program.run("auto.slot", {"--ratio", "auto", "--select", select});
      REQUIRE(hidden.exit_code == 0);
      CHECK(program.error_of("auto.slot") <= 1.01 * none);
    }
  }
}

TEST_CASE("kvpack blend: says what it cost, in a form that a plan takes") {
  const BlendProgram program(Quality::kLossless);
  const auto run = program.run("ctx.kvp", {"--ratio", "0.2"});
  REQUIRE(run.exit_code == 0);
  const auto json = nlohmann::json::parse(run.out);
  CHECK(json["tokens"]["recomputed"] > 0);
  CHECK(json["tokens"]["context"] == kFront + kBack);
  CHECK(json["seconds"]["recompute"] > 0);
  const double tokens_per_s = json["blend_tokens_per_s"];
  CHECK(tokens_per_s == doctest::Approx(0.2 * (kFront + kBack) / json["seconds"]["recompute"].get<double>()));
  const auto plan = run_kvpack({"plan", program.folder.file("ctx.kvp"), "--bandwidth", "100Mbit", "--blend", "0.2",
                                "--blend-tok-s", std::to_string(tokens_per_s), "--json"});
  REQUIRE(plan.exit_code == 0);
  const double planned_s = nlohmann::json::parse(plan.out)["blend"]["seconds"];
  CHECK(planned_s == doctest::Approx(0.2 * (kFront + kBack + kQuery) / tokens_per_s));
  CHECK(run_kvpack({"plan", program.folder.file("ctx.kvp"), "--bandwidth", "100Mbit", "--blend", "0.2"}).exit_code ==
        2);
}

TEST_CASE("kvpack blend: what is wrong is refused, and nothing is written") {
  const BlendProgram program(Quality::kLossless);
  const std::vector<std::vector<std::string>> wrong = {{"--ratio", "1.5", "a share from 0 to 1"},
                                                       {"--ratio", "x", "a share from 0 to 1"},
                                                       {"--select", "best", "--select"},
                                                       {"--query-tokens", "1,,2", "no list of token ids"},
                                                       {"--query-tokens", "99999999", "99999999"}};
  for (const auto& words : wrong) {
    CAPTURE(words[1]);
    const auto run = program.run("no.slot", {words[0], words[1]});
    CHECK(run.exit_code == 2);
    CHECK(run.err.find(words[2]) != std::string::npos);
    CHECK_FALSE(std::filesystem::exists(program.folder.file("no.slot")));
  }
}

}  // namespace
}  // namespace kvpack::test
