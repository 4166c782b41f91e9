// SPDX-License-Identifier: Apache-2.0
// One saved context, several uses (the four stages of SCBench, arXiv 2412.10319: a cache is made, compressed, kept,
// loaded again): for every question asked of it, and over the turns of a conversation, the engine goes on as it does
// when it computes everything itself. Exactly so after a lossless archive. The engine is llama.cpp in process, KV goes
// in and out of it in memory.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>

#include "codec/archive_codec.h"
#include "formats/byte_io.h"
#include "net/engine/libllama_engine.h"
#include "tests/engine/scratch_folder.h"
#include "tests/must.h"

namespace kvpack::engine {
namespace {

using test::must;

constexpr uint32_t kContext = 800;
constexpr uint32_t kAnswer = 24;  // tokens
// Another model: KVPACK_TURNS_MODEL. What is asserted of lossy archives is for nano; of others it is only said.
const std::string kNano = KVPACK_SAMPLES_DIR "/nano-f16.gguf";
const std::string kModel = std::getenv("KVPACK_TURNS_MODEL") ? std::getenv("KVPACK_TURNS_MODEL") : kNano;
const std::vector<std::string> kQuestions = {" Who kept the light?", " The sea was", "\n\nIn the morning, the boat",
                                             " She asked him why"};

struct Turns {
  std::unique_ptr<LibllamaEngine> engine;
  ModelFacts facts = must(read_model_facts(kModel));
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> questions;

  Turns() {
    EngineOptions options;
    options.n_ctx = 1280;
    engine = must(LibllamaEngine::open(KVPACK_LLAMA_LIB, kModel, options));
    const Bytes text = must(read_file(KVPACK_SAMPLES_DIR "/lighthouse.txt"));
    context = must(engine->tokenize(std::string(as_text(text)), PromptPart::kBeginning));
    REQUIRE(context.size() > kContext);
    context.resize(kContext);
    for (const std::string& question : kQuestions) {
      questions.push_back(must(engine->tokenize(question, PromptPart::kContinuation)));
    }
  }

  // Through an archive: the state file that comes out.
  Bytes archived(ByteSpan state, Quality quality) const {
    EncodeOptions encode;
    encode.quality = quality;
    encode.threads = 1;
    KvReadOptions read;
    read.facts = &facts;
    const KvFile file = must(read_kv_file(Bytes(state.begin(), state.end()), read));
    MemorySink sink;
    must(encode_archive(file, &facts, encode, sink));
    MemorySource source(sink.bytes());
    const ArchiveReader reader = must(ArchiveReader::open(source));
    return must(restore_file(reader, {}));
  }

  // The question put to what the engine has; then its own likeliest tokens.
  std::vector<int32_t> answer(std::vector<int32_t> prompt, const std::vector<int32_t>& question) {
    must(engine->prefill(prompt));
    prompt.insert(prompt.end(), question.begin(), question.end());
    const size_t begin = prompt.size();
    for (uint32_t i = 0; i < kAnswer; ++i) prompt.push_back(must(engine->predict(prompt, 1)).front().token);
    return {prompt.begin() + static_cast<ptrdiff_t>(begin), prompt.end()};
  }
  // The share of `expected` that is likeliest after the context, the question and what of it came before.
  double agreement(const std::vector<int32_t>& question, const std::vector<int32_t>& expected) {
    std::vector<int32_t> prompt = context;
    prompt.insert(prompt.end(), question.begin(), question.end());
    double same = 0;
    for (const int32_t token : expected) {
      same += must(engine->predict(prompt, 1)).front().token == token ? 1 : 0;
      prompt.push_back(token);
    }
    return same / static_cast<double>(expected.size());
  }
};

Bytes bytes_of(const std::shared_ptr<const FileBytes>& state) {
  const ByteSpan span = *state;
  return {span.begin(), span.end()};
}

TEST_CASE("a context restored for each of several questions is answered as a fresh prefill is") {
  Turns turns;
  must(turns.engine->prefill(turns.context));
  const Bytes saved = bytes_of(must(turns.engine->export_kv()));
  const Bytes lossless = turns.archived(saved, Quality::kLossless);
  CHECK(lossless == saved);
  std::vector<std::vector<int32_t>> fresh;
  for (const auto& question : turns.questions) {
    must(turns.engine->erase_kv());
    fresh.push_back(turns.answer(turns.context, question));
    CHECK(must(turns.engine->import_kv(lossless)) == kContext);
    const PrefillReport report = must(turns.engine->prefill(turns.context));
    CHECK(report.computed_tokens == 0);
    CHECK(turns.answer(turns.context, question) == fresh.back());
  }
  const std::pair<Quality, double> lossy[] = {{Quality::kHigh, 0.95}, {Quality::kMedium, 0.9}, {Quality::kLow, 0.7}};
  for (const auto& [quality, least] : lossy) {
    const Bytes state = turns.archived(saved, quality);
    double agreed = 0;
    for (size_t q = 0; q < fresh.size(); ++q) {
      must(turns.engine->import_kv(state));
      agreed += turns.agreement(turns.questions[q], fresh[q]) / static_cast<double>(fresh.size());
    }
    MESSAGE(fmt::format("{}: {:.1f} % of the greedy tokens are the same", quality_name(quality), 100 * agreed));
    if (kModel == kNano) CHECK(agreed > least);
  }
}

TEST_CASE("a conversation of several turns goes on from a restored context, and from one saved between turns") {
  Turns turns;
  const auto talk = [&](bool through_archives) {
    std::vector<int32_t> prompt = turns.context;
    std::vector<int32_t> said;
    for (const auto& question : turns.questions) {
      if (through_archives) {
        must(turns.engine->prefill(prompt));
        const Bytes state = turns.archived(*must(turns.engine->export_kv()), Quality::kLossless);
        must(turns.engine->erase_kv());
        CHECK(must(turns.engine->import_kv(state)) == prompt.size());
      }
      const std::vector<int32_t> answer = turns.answer(prompt, question);
      prompt.insert(prompt.end(), question.begin(), question.end());
      prompt.insert(prompt.end(), answer.begin(), answer.end());
      said.insert(said.end(), answer.begin(), answer.end());
    }
    return said;
  };
  const std::vector<int32_t> afresh = talk(false);
  must(turns.engine->erase_kv());
  CHECK(talk(true) == afresh);
  CHECK(afresh.size() == kAnswer * kQuestions.size());
}

TEST_CASE("libllama as an engine: what it says of itself, what it reuses, what it refuses") {
  if (kModel != kNano) return;
  Turns turns;
  const EngineFacts facts = must(turns.engine->facts());
  CHECK(facts.model_path == kModel);
  CHECK(facts.vocabulary == 4096);
  CHECK(facts.embedding == 256);
  CHECK(facts.parameters == 4000000);
  CHECK(facts.context_tokens == 1280);
  CHECK(must(turns.engine->prefill(std::span(turns.context).first(200))).computed_tokens == 200);
  CHECK(must(turns.engine->prefill(std::span(turns.context).first(300))).reused_tokens == 200);
  CHECK(turns.engine->prefill_tokens_per_s() > 0);
  // What it exports is what it would have written to a file.
  const auto state = must(turns.engine->export_kv());
  const KvFile file = must(read_kv_file(state, {}));
  CHECK(file.tokens.size() == 300);
  CHECK(file.tensor.token_sets.at(0).positions.size() == 300);
  // Another beginning: nothing of it is left.
  std::vector<int32_t> other = turns.context;
  other[0] = other[1];
  CHECK(must(turns.engine->prefill(std::span(other).first(50))).reused_tokens == 0);
  const auto predicted = must(turns.engine->predict(std::span(other).first(50), 3));
  REQUIRE(predicted.size() == 3);
  CHECK(predicted[0].log_probability >= predicted[1].log_probability);
  CHECK(predicted[0].log_probability < 0);
  CHECK_FALSE(turns.engine->import_kv(as_byte_span("no state")).ok());
  Bytes cut = bytes_of(state);
  cut.pop_back();
  CHECK_FALSE(turns.engine->import_kv(cut).ok());
}

}  // namespace
}  // namespace kvpack::engine
