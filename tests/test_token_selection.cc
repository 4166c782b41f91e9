// SPDX-License-Identifier: Apache-2.0
// Scores per token, and contexts of which some tokens are dropped.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "codec/token_keep.h"
#include "codec/token_merge.h"
#include "codec/token_selection.h"
#include "formats/npy_array.h"
#include "formats/npy_header.h"
#include "tests/pack.h"
#include "tests/program_run.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

template <typename T>
Bytes npy_of(const std::string& descr, const std::vector<uint64_t>& shape, const std::vector<T>& values) {
  Bytes bytes = make_npy_header({descr, false, shape, 0});
  const ByteSpan data = std::as_bytes(std::span(values));
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

// Every third token of a context of `tokens`.
std::vector<uint8_t> every_third(uint32_t tokens) {
  std::vector<uint8_t> mask(tokens);
  for (uint32_t t = 0; t < tokens; ++t) mask[t] = t % 3 == 0;
  return mask;
}

TokenScores spread(const std::vector<uint64_t>& shape, const std::vector<float>& values, const KvTensor& tensor) {
  return must(spread_token_scores(shape, values, tensor));
}

Bytes rows_of(const KvView& view, uint32_t first, uint32_t count) {
  Bytes rows(count * view.packed_row_bytes());
  load_raw(view, first, count, rows.data());
  return rows;
}

const std::string kState = "llama/lighthouse-f16.slot.bin";

struct Lighthouse {
  ModelFacts facts = nano_facts();
  KvFile file = read_kv(read_sample(kState), &facts);
  uint32_t tokens() const { return static_cast<uint32_t>(file.tensor.token_sets[0].positions.size()); }
  SelectOptions options() const {
    SelectOptions options;
    options.read.facts = &facts;
    return options;
  }
  TokenScores thirds() const {
    const std::vector<uint8_t> mask = every_third(tokens());
    return spread({tokens()}, std::vector<float>(mask.begin(), mask.end()), file.tensor);
  }
};

TEST_CASE("arrays of numbers are read in every type that masks and scores have") {
  CHECK(must(read_npy_array(npy_of<float>("<f4", {2}, {0.5f, 3}), 10)).values == std::vector<float>{0.5f, 3});
  CHECK(must(read_npy_array(npy_of<double>("<f8", {1, 2}, {0.5, 3}), 10)).values == std::vector<float>{0.5f, 3});
  CHECK(must(read_npy_array(npy_of<uint16_t>("<f2", {2}, {0x3800, 0x4200}), 10)).values == std::vector<float>{0.5f, 3});
  CHECK(must(read_npy_array(npy_of<uint8_t>("|b1", {3}, {1, 0, 1}), 10)).values == std::vector<float>{1, 0, 1});
  CHECK(must(read_npy_array(npy_of<uint8_t>("|u1", {1}, {255}), 10)).values == std::vector<float>{255});
  check_error(read_npy_array(npy_of<float>("<f4", {3}, {1, 2}), 10), ErrorKind::kTruncated, "header says 12");
  check_error(read_npy_array(npy_of<float>("<f4", {1}, {1, 2}), 10), ErrorKind::kCorrupt, "header says 4");
  check_error(read_npy_array(npy_of<float>("<i4", {1}, {1}), 10), ErrorKind::kUnsupported, "<i4");
  check_error(read_npy_array(npy_of<float>("<f4", {11}, {}), 10), ErrorKind::kLimit, "at most 10");
  check_error(read_npy_array(npy_of<float>("<f4", {1ull << 40, 1ull << 40}, {}), UINT64_MAX), ErrorKind::kLimit);
}

TEST_CASE("scores fit the context, or both shapes are named; values that are no scores are placed") {
  RandomShape shape;
  const KvFile file = random_kv_file(shape);
  std::vector<float> scores(2 * 2 * 300);
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i);
  const TokenScores spread_out = spread({2, 2, 300}, scores, file.tensor);
  REQUIRE(spread_out.size() == 4);
  CHECK(spread_out[2][7 * 2 + 1] == 3 * 300 + 7);  // layer 1, K: head 1, token 7
  CHECK(spread_out[3] == spread_out[2]);
  check_error(spread_token_scores(std::vector<uint64_t>{2, 3, 300}, std::vector<float>(1800), file.tensor),
              ErrorKind::kInvalidArgument, "(2, 3, 300), expected (2, 2, 300)");
  check_error(spread_token_scores(std::vector<uint64_t>{299}, std::vector<float>(299), file.tensor),
              ErrorKind::kInvalidArgument, "(299)");
  for (const float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> spoiled = scores;
    spoiled[3 * 300 + 5] = bad;
    check_error(spread_token_scores(std::vector<uint64_t>{2, 2, 300}, spoiled, file.tensor),
                ErrorKind::kInvalidArgument, "[1][1][5]");
  }
}

TEST_CASE("what is kept keeps its bytes and positions, through a lossless archive and back into the engine's format") {
  const Lighthouse source;
  const SelectedContext selected = must(select_tokens(source.file, &source.facts, source.thirds(), source.options()));
  CHECK(selected.tokens == source.tokens());
  CHECK(selected.replaced_share == 0);
  const Bytes archive = pack(selected.file, &source.facts, Quality::kLossless);
  const KvFile restored = read_kv(restore(archive), &source.facts);
  const TokenSet& all = source.file.tensor.token_sets[0];
  const TokenSet& kept = restored.tensor.token_sets[0];
  CHECK(kept.positions.size() == selected.kept_tokens);
  CHECK(kept.positions.back() == all.positions.back());
  CHECK(kept.positions.size() < all.positions.size() / 3 + 20);
  CHECK(restored.tokens == source.file.tokens);  // the whole prompt
  for (size_t p = 0; p < restored.tensor.planes.size(); ++p) {
    for (uint32_t i = 0; i < kept.positions.size(); ++i) {
      const auto at = std::lower_bound(all.positions.begin(), all.positions.end(), kept.positions[i]);
      REQUIRE(rows_of(restored.tensor.planes[p].view, i, 1) ==
              rows_of(source.file.tensor.planes[p].view, static_cast<uint32_t>(at - all.positions.begin()), 1));
    }
  }
}

TEST_CASE("sinks and the last token stay whatever the mask says") {
  RandomShape shape;
  shape.sink = true;
  const KvFile file = random_kv_file(shape);
  const auto forced = always_kept_tokens(file.tensor);
  CHECK(forced[0].front());
  CHECK(forced[0].back());
  CHECK(std::count(forced[0].begin(), forced[0].end(), true) == 2);
}

TEST_CASE("the top share goes by the heads' sums, or head by head") {
  RandomShape shape;
  shape.layers = 1;
  shape.tokens = 100;
  const KvFile file = random_kv_file(shape);
  std::vector<float> scores(200, 0.0f);
  for (uint32_t t = 10; t < 20; ++t) scores[t] = 5;        // head 0
  for (uint32_t t = 30; t < 40; ++t) scores[100 + t] = 1;  // head 1: counts as much, each head's sum is 1
  for (uint32_t t = 30; t < 35; ++t) scores[100 + t] = 3;
  const TokenScores by_plane = spread({1, 2, 100}, scores, file.tensor);
  const TokenScores together = must(keep_top_tokens(file.tensor, by_plane, 0.05, false));
  const TokenScores apart = must(keep_top_tokens(file.tensor, by_plane, 0.05, true));
  const auto kept = [](const std::vector<float>& mask, uint32_t head) {
    std::vector<uint32_t> tokens;
    for (uint32_t t = 0; t < mask.size() / 2; ++t) {
      if (mask[size_t{t} * 2 + head] != 0) tokens.push_back(t);
    }
    return tokens;
  };
  // The last token counts as one of the five.
  CHECK(kept(together[0], 0) == std::vector<uint32_t>{31, 32, 33, 34, 99});
  CHECK(kept(together[0], 1) == kept(together[0], 0));
  CHECK(kept(apart[0], 0) == std::vector<uint32_t>{16, 17, 18, 19, 99});
  CHECK(kept(apart[0], 1) == std::vector<uint32_t>{31, 32, 33, 34, 99});
  CHECK(apart[1] == apart[0]);
  check_error(keep_top_tokens(file.tensor, by_plane, 0, false), ErrorKind::kInvalidArgument, "share");
}

TEST_CASE("what one head drops costs next to nothing, and leaves the other head's values as they are") {
  const Lighthouse source;
  const uint32_t tokens = source.tokens();
  const auto layers = static_cast<uint64_t>(source.file.tensor.planes.size() / 2);
  std::vector<float> mask(layers * 2 * tokens, 1.0f);
  for (uint64_t row = 0; row < layers * 2; row += 2) {  // head 0 drops all
    std::fill_n(mask.begin() + static_cast<ptrdiff_t>(row * tokens), tokens, 0.0f);
  }
  const TokenScores keep = spread({layers, 2, tokens}, mask, source.file.tensor);
  const SelectedContext selected = must(select_tokens(source.file, &source.facts, keep, source.options()));
  CHECK(selected.kept_tokens == tokens);
  CHECK(selected.replaced_share > 0.45);
  const auto bytes_of = [&](const KvFile& file, const TokenScores& weights) {
    EncodeOptions encode;
    encode.token_weights = weights;
    if (&file == &selected.file) encode.sinks = selected.sinks;
    MemorySink sink;
    must(encode_archive(file, &source.facts, encode, sink));
    return sink.take().size();
  };
  CHECK(static_cast<double>(bytes_of(selected.file, selected.weights)) <
        0.6 * static_cast<double>(bytes_of(source.file, {})));
  const KvView& before = source.file.tensor.planes[0].view;
  const KvView& after = selected.file.tensor.planes[0].view;
  std::vector<float> a(before.channels()), b(a.size());
  load_values(before, 77, 1, a.data());
  load_values(after, 77, 1, b.data());
  CHECK(std::equal(a.begin() + before.head_dim, a.end(), b.begin() + before.head_dim));
  CHECK_FALSE(std::equal(a.begin(), a.begin() + before.head_dim, b.begin()));
}

TEST_CASE("a head's average token stands for what it dropped") {
  RandomShape shape;
  shape.layers = 1;
  const KvFile file = random_kv_file(shape);
  const ModelFacts facts = facts_of(shape);
  std::vector<float> mask(2 * 300, 1.0f);
  for (uint32_t t = 0; t < 300; t += 3) mask[t] = 0;  // of head 0
  const TokenScores keep = spread({1, 2, 300}, mask, file.tensor);
  SelectOptions options;
  options.read.facts = &facts;
  const SelectedContext selected = must(select_tokens(file, &facts, keep, options));
  for (const KvPlane& plane : file.tensor.planes) {
    std::vector<float> before(300 * 128), after(300 * 128);
    load_values(plane.view, 0, 300, before.data());
    const size_t index = plane.side == Side::kKey ? 0 : 1;
    load_values(selected.file.tensor.planes[index].view, 0, 300, after.data());
    if (plane.rope >= 0) {
      for (std::vector<float>* rows : {&before, &after}) {
        RopeRotation(facts.ropes[0], file.tensor.token_sets[0].positions).undo(*rows, 2, 64);
      }
    }
    for (uint32_t d = 0; d < 64; ++d) {
      double mean = 0;
      for (size_t t = 0; t < 299; ++t) mean += t % 3 != 0 ? double{before[t * 128 + d]} / 199 : 0;
      CHECK(after[150 * 128 + d] == doctest::Approx(mean).epsilon(0.02));
      CHECK(std::fabs(after[151 * 128 + d] - before[151 * 128 + d]) < 0.02f);
    }
  }
}

TEST_CASE("a dropped token is averaged into the kept one whose key is most like its own") {
  // Around the mean (10.1, 10.04): token 1 points as token 3 does, token 4 as no other.
  std::vector<float> keys = {11, 10, 10, 11, 9, 10, 10.5f, 11.2f, 10, 8};
  std::vector<float> values = {1, 1, 2, 2, 3, 3, 4, 4, 5, 5};
  const std::vector<TokenFate> fate = {TokenFate::kKept, TokenFate::kDropped, TokenFate::kKept, TokenFate::kKept,
                                       TokenFate::kDropped};
  const HeadRows key_rows{keys, 1, 0, 2};
  const HeadRows value_rows{values, 1, 0, 2};
  const std::vector<float> scores = {1, 1, 1, 1, 1};
  const auto changed = merge_dropped_tokens(key_rows, value_rows, fate, scores);
  CHECK(changed == std::vector<uint32_t>{3});
  CHECK(values[6] < 4);
  CHECK(values[6] > 3);  // the mean of 4 and 2, 2 weighing a little less
  CHECK(keys[7] == doctest::Approx(11.1).epsilon(0.01));
  CHECK(values[0] == 1);
  CHECK(values[4] == 3);
}

TEST_CASE("merging changes kept tokens only, and an untouched one never") {
  const Lighthouse source;
  SelectOptions options = source.options();
  const SelectedContext plain = must(select_tokens(source.file, &source.facts, source.thirds(), options));
  options.merge = true;
  const SelectedContext merged = must(select_tokens(source.file, &source.facts, source.thirds(), options));
  CHECK(merged.file.tensor.token_sets[0].positions == plain.file.tensor.token_sets[0].positions);
  uint32_t differing = 0;
  const uint32_t last = static_cast<uint32_t>(plain.kept_tokens) - 1;
  for (size_t p = 0; p < plain.file.tensor.planes.size(); ++p) {
    const KvView& a = plain.file.tensor.planes[p].view;
    const KvView& b = merged.file.tensor.planes[p].view;
    for (uint32_t t = 0; t < a.tokens; ++t) differing += rows_of(a, t, 1) != rows_of(b, t, 1);
    CHECK(rows_of(a, last, 1) == rows_of(b, last, 1));
  }
  CHECK(differing > plain.kept_tokens);
}

TEST_CASE("every kind of state file can be thinned, or says why not") {
  for (const std::string& name : samples_in("zoo")) {
    CAPTURE(name);
    const KvFile file = read_kv(read_sample(name));
    size_t longest = 0;
    for (const TokenSet& set : file.tensor.token_sets) longest = std::max(longest, set.positions.size());
    const std::vector<uint8_t> mask = every_third(static_cast<uint32_t>(longest));
    const auto keep =
        spread_token_scores(std::vector<uint64_t>{longest}, std::vector<float>(mask.begin(), mask.end()), file.tensor);
    const auto selected = keep.ok() ? select_tokens(file, nullptr, *keep, {}) : Result<SelectedContext>(keep.error());
    if (selected.ok()) {
      CHECK(selected->kept_tokens < longest);
      CHECK(std::ranges::equal(restore(pack(selected->file, nullptr, Quality::kLossless)),
                               ByteSpan(*selected->file.tensor.storage)));
    } else {
      CHECK_FALSE(selected.error().message.empty());
      CHECK((file.has_opaque_state || longest == 0 || file.tensor.token_sets.size() > 1 ||
             selected.error().message.find("position") != std::string::npos));
    }
  }
}

TEST_CASE("cli: tokens are kept by mask and by score, and what cannot be is one error") {
  const engine::ScratchFolder folder;
  const std::string state = sample_path(kState);
  const std::string model = sample_path("nano-f16.gguf");
  const Lighthouse source;
  const uint32_t tokens = source.tokens();
  const auto put = [&](const std::string& name, const Bytes& bytes) {
    must(engine::write_file(folder.file(name), bytes));
    return folder.file(name);
  };
  const auto encode = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"encode", state, "-m", model, "-f", "-o", folder.file("a.kvp")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_kvpack(arguments, {.environment = {"XDG_DATA_HOME=" + folder.file("none")}});
  };
  const std::string mask = put("mask.npy", npy_of("|b1", {tokens}, every_third(tokens)));
  const std::string profile = sample_path("profiles/nano.kvprofile");
  CHECK(encode({"--keep", mask, "--quality", "lossless"}).out.find("tokens kept") != std::string::npos);
  const KvTensor kept = unpack(must(engine::read_file(folder.file("a.kvp"))));
  CHECK(kept.token_sets[0].positions.size() < tokens / 2);
  CHECK(encode({"--keep-top", "0.25", "--profile", profile}).exit_code == 0);
  CHECK(encode({"--keep-top", "0.25", "--per-head", "--merge-dropped", "--profile", profile}).exit_code == 0);
  const auto fails = [&](const std::vector<std::string>& more, std::string_view text) {
    const Outcome outcome = encode(more);
    CAPTURE(outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.err.find(text) != std::string::npos);
  };
  const std::string scores = put("scores.npy", npy_of("<f4", {tokens - 1}, std::vector<float>(tokens - 1, 1.0f)));
  fails({"--saliency", scores}, "scores.npy: shape (");
  fails({"--keep-top", "0.5"}, "--saliency");
  fails({"--keep-top", "1.5", "--profile", profile}, "at most 1");
  fails({"--merge-dropped"}, "--keep");
  fails({"--per-head"}, "--keep-top");
}

}  // namespace
}  // namespace kvpack::test
