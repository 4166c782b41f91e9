// SPDX-License-Identifier: Apache-2.0
// A joined context whose archives are read at the base first: which chunks get their further levels, what is read, and
// that values are those of decoding each chunk at its level.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "net/engine/blend.h"
#include "net/engine/blend_refinement.h"
#include "tests/pack.h"
#include "tests/program_run.h"
#include "tests/sample_files.h"
#include "tests/scripted_server.h"

namespace kvpack::test {
namespace {

// Two chunks of 10 tokens, three levels that leave a tenth of the distortion each and are equally large.
ContextCosts even_costs(uint32_t levels = 3) {
  ContextCosts costs;
  costs.tokens = {10, 10};
  for (uint32_t level = 0; level < levels; ++level) {
    costs.bytes.push_back({100, 100});
    const double left = 100 / std::pow(10, level);
    costs.distortion.push_back({left, left});
  }
  return costs;
}

}  // namespace

TEST_CASE(
    "refinement: a chunk's score is the mean root of its tokens'; those that the context has from elsewhere are 0") {
  const std::vector<ChunkShape> chunks = {{0, 0, 4, 0, 2}, {0, 4, 2, 0, 2}};
  CHECK(chunk_scores(chunks, 0, std::vector<float>{1, 4, 9, 36, 1, 4}) == std::vector<double>{3, 1.5});
  CHECK(chunk_scores(chunks, 1, std::vector<float>{4, 9, 49, 1, 4}) == std::vector<double>{3, 1.5});
  CHECK(chunk_scores(chunks, 5, std::vector<float>{4}) == std::vector<double>{0, 1});
}

TEST_CASE("refinement: the budget goes to the chunks whose tokens matter") {
  const std::vector<ContextCosts> archives = {even_costs(), even_costs()};
  const std::vector<std::vector<double>> alike = {{1, 1}, {1, 1}};
  using Levels = std::vector<ChunkLevels>;
  CHECK(choose_levels(archives, alike, 0) == Levels{{1, 1}, {1, 1}});
  CHECK(choose_levels(archives, alike, 1) == Levels{{3, 3}, {3, 3}});
  CHECK(choose_levels(archives, alike, 0.5) == Levels{{2, 2}, {2, 2}});
  CHECK(choose_levels(archives, alike, 0.49) == Levels{{2, 2}, {2, 1}});
  const std::vector<std::vector<double>> second = {{0.1, 0.1}, {50, 2}};
  CHECK(choose_levels(archives, second, 0.125) == Levels{{1, 1}, {2, 1}});
  CHECK(choose_levels(archives, second, 0.25) == Levels{{1, 1}, {3, 1}});
  CHECK(choose_levels(archives, second, 0.375) == Levels{{1, 1}, {3, 2}});
  CHECK(choose_levels(archives, second, 1) == Levels{{3, 3}, {3, 3}});
  // An archive with fewer levels than another has its own number at most.
  const std::vector<ContextCosts> uneven = {even_costs(1), even_costs(3)};
  CHECK(choose_levels(uneven, second, 1) == Levels{{1, 1}, {3, 3}});
  CHECK(choose_levels(uneven, second, 0.5) == Levels{{1, 1}, {3, 1}});

  CHECK(steps_between({1, 1, 1}, {1, 1, 1}).empty());
  CHECK(steps_between({1, 1, 2, 1}, {2, 2, 3, 1}) == std::vector<RangeStep>{{1, 1, 0, 2}, {2, 1, 2, 1}});
  CHECK(bytes_at(even_costs(), {1, 3}) == 400);
}

namespace {

// The nano sample in two halves, each an archive of 32-token chunks with two levels.
struct Halves {
  ModelFacts facts = nano_facts();
  KvFile whole = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  Bytes first = half(0, 640), second = half(640, 1240);
  std::string ids;  // of the query

  Halves() {
    for (uint32_t t = 1240; t < 1270; ++t) ids += std::to_string(whole.tokens[t]) + (t < 1269 ? "," : "");
  }
  Bytes half(uint32_t begin, uint32_t end) const {
    DecodeOptions part;
    part.positions = {begin, end};
    const KvTensor tensor = unpack(pack(whole, &facts, Quality::kLossless), part);
    const std::vector<int32_t> tokens(whole.tokens.begin() + begin, whole.tokens.begin() + end);
    EncodeOptions options;
    options.chunk_tokens = 32;
    MemorySink sink;
    must(encode_archive(read_kv(must(write_llama_state(tensor, tokens, {}, {})), &facts), &facts, options, sink));
    return sink.take();
  }
};

struct RefinedRun {
  Bytes state;
  nlohmann::json json;
};

// What `kvpack blend` makes of both halves, nothing computed again but the query.
RefinedRun blend_halves(const Halves& halves, const std::string& a, const std::string& b,
                        const std::vector<std::string>& options) {
  const kvpack::engine::ScratchFolder folder;
  std::vector<std::string> words = {"blend",
                                    a,
                                    b,
                                    "-m",
                                    sample_path("nano-f16.gguf"),
                                    "--query-tokens",
                                    halves.ids,
                                    "--ratio",
                                    "0",
                                    "--shared-tokens",
                                    "0",
                                    "--json",
                                    "-o",
                                    folder.file("ctx.slot")};
  words.insert(words.end(), options.begin(), options.end());
  const auto run = run_kvpack(words);
  REQUIRE_MESSAGE(run.exit_code == 0, run.err);
  return {must(read_whole_file(folder.file("ctx.slot"))), nlohmann::json::parse(run.out)};
}

}  // namespace

TEST_CASE("kvpack blend --refine: from the base alone to all of it, over HTTP as from a file") {
  const Halves halves;
  const kvpack::engine::ScratchFolder folder;
  REQUIRE(kvpack::engine::write_file(folder.file("a.kvp"), halves.first).ok());
  REQUIRE(kvpack::engine::write_file(folder.file("b.kvp"), halves.second).ok());
  ScriptedServer server([&](const ScriptedRequest& request, auto& connection) {
    answer_right(request, connection, as_text(request.target.ends_with("a.kvp") ? halves.first : halves.second));
  });
  for (const std::string& from : {folder.file(""), server.url("/")}) {
    const auto blend = [&](const std::vector<std::string>& options) {
      return blend_halves(halves, from + "a.kvp", from + "b.kvp", options);
    };
    const RefinedRun today = blend({});
    CHECK(today.json["read"]["of"] == halves.first.size() + halves.second.size());
    const RefinedRun all = blend({"--refine", "1"});
    CHECK(all.state == today.state);
    const RefinedRun base = blend({"--refine", "0"});
    CHECK(base.json["read"]["refined"] == 0);
    CHECK(base.json["read"]["archive_chunks"] == 39);
    CHECK(base.state != today.state);
    for (const char* select : {"hkvd", "query", "epic"}) {
      const RefinedRun part = blend({"--refine", "0.4", "--select", select});
      CHECK(part.json["read"]["refined"] > 0);
      CHECK(part.json["read"]["refined"] < 39);
      CHECK(part.json["read"]["bytes"] > base.json["read"]["bytes"]);
      CHECK(part.json["read"]["bytes"] < today.json["read"]["bytes"]);
      CHECK(part.state != base.state);
      CHECK(part.state != today.state);
    }
    CHECK(base.json["read"]["bytes"] < today.json["read"]["bytes"].get<double>() * 0.7);
  }
}

TEST_CASE("kvpack blend --refine: shares that are none are refused") {
  const Halves halves;
  const kvpack::engine::ScratchFolder folder;
  REQUIRE(kvpack::engine::write_file(folder.file("a.kvp"), halves.first).ok());
  for (const char* share : {"-0.1", "1.1", "nan", "x"}) {
    const auto run = run_kvpack({"blend", folder.file("a.kvp"), "-m", sample_path("nano-f16.gguf"), "--query-tokens",
                                 "5,6", "--refine", share, "-o", folder.file("no.slot")});
    CAPTURE(share);
    CHECK(run.exit_code == 2);
    CHECK(run.err.find("--refine") != std::string::npos);
  }
}

TEST_CASE("kvpack blend --refine: a damaged level is one clear error where it is needed, and none where it is not") {
  Halves halves;
  const kvpack::engine::ScratchFolder folder;
  MemorySource source(halves.first);
  const BlockEntry block = must(ArchiveReader::open(source)).directory().block(1, 7);
  halves.first[block.offset + block.bytes - 1] ^= std::byte{1};
  REQUIRE(kvpack::engine::write_file(folder.file("a.kvp"), halves.first).ok());
  const auto blend = [&](const char* share) {
    return run_kvpack({"blend", folder.file("a.kvp"), "-m", sample_path("nano-f16.gguf"), "--query-tokens", "5,6",
                       "--refine", share, "-f", "-o", folder.file("ctx.slot")});
  };
  for (const char* share : {"0.99", "1"}) {
    const auto run = blend(share);
    CHECK(run.exit_code != 0);
    CHECK(run.err.find("a.kvp") != std::string::npos);
    CHECK(run.err.find("chunk 7") != std::string::npos);
  }
  CHECK(blend("0").exit_code == 0);
}

TEST_CASE("refinement: values are those of decoding each chunk at its level, and replace what was joined") {
  const Halves halves;
  MemorySource source(halves.first);
  const ArchiveReader reader = must(ArchiveReader::open(source));
  const auto chunks = static_cast<uint32_t>(reader.directory().chunks.size());
  REQUIRE(reader.directory().levels == 2);
  ChunkLevels levels(chunks, 1);
  levels[3] = levels[4] = levels[17] = 2;
  std::vector<int32_t> tokens;
  const KvTensor mixed = must(decode_at(reader, levels, {}, &tokens));
  DecodeOptions base;
  base.level = 0;
  const KvTensor coarse = must(decode_tensor(reader, base, nullptr));
  const KvTensor fine = must(decode_tensor(reader, {}, nullptr));
  JoinedContext context = must(JoinedContext::join({{"a", coarse, tokens}}, {}, halves.facts, {}));
  CHECK_FALSE(context.replace(0, {"a", mixed, {1, 2, 3}}, halves.facts, {}).ok());
  std::vector<int32_t> others = tokens;
  others[5] += 1;
  CHECK(context.replace(0, {"a", mixed, others}, halves.facts, {}).error().kind == ErrorKind::kInvalidArgument);
  REQUIRE(context.replace(0, {"a", mixed, tokens}, halves.facts, {}).ok());
  for (size_t p = 0; p < mixed.planes.size(); ++p) {
    const KvView& view = mixed.planes[p].view;
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      const ChunkShape& shape = reader.directory().chunks[chunk];
      const auto rows = [&](const KvView& of) {
        std::vector<float> values(size_t{shape.tokens} * of.channels());
        load_values(of, shape.first_token, shape.tokens, values.data());
        return values;
      };
      const KvTensor& expected = levels[chunk] == 1 ? coarse : fine;
      CHECK(rows(view) == rows(expected.planes[p].view));
      const auto joined = std::find_if(context.tensor().planes.begin(), context.tensor().planes.end(), [&](auto& of) {
        return of.layer == mixed.planes[p].layer && of.side == mixed.planes[p].side;
      });
      CHECK(rows(joined->view) == rows(view));
    }
  }
  CHECK(context.tensor().token_sets[0].positions.size() == tokens.size());
}

TEST_CASE("blend: refinement is told what each token is worth, once, before anything is computed again") {
  const Halves halves;
  const ModelWeights weights = [&] {
    static const auto source = must(open_file_source(sample_path("nano-f16.gguf")));
    return must(ModelWeights::open(*source, 1));
  }();
  const ModelAttention attention = must(read_attention_layers(weights, halves.facts, 1));
  std::vector<int32_t> tokens;
  const KvTensor tensor = unpack(halves.first, {}, &tokens);
  for (const BlendSelect select : {BlendSelect::kHkvd, BlendSelect::kQuery, BlendSelect::kEpic}) {
    JoinedContext context = must(JoinedContext::join({{"a", tensor, tokens}}, {5, 6, 7}, halves.facts, {}));
    BlendOptions options;
    options.select = select;
    options.threads = 1;
    int calls = 0;
    options.refine = [&](std::span<const float> score) -> Status {
      ++calls;
      REQUIRE(score.size() == tokens.size());
      CHECK(std::ranges::all_of(score, [](float s) { return s >= 0; }));
      const auto [least, most] = std::ranges::minmax(score);
      CHECK((select == BlendSelect::kEpic ? least == 1 && most == 1 : most > least));
      return {};
    };
    must(blend(context, weights, attention, options));
    CHECK(calls == 1);
    options.refine = [](std::span<const float>) -> Status { return io_error("gone"); };
    CHECK(blend(context, weights, attention, options).error().kind == ErrorKind::kIo);
  }
}

}  // namespace kvpack::test
