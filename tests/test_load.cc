// SPDX-License-Identifier: Apache-2.0
// `kvpack save` and `kvpack load` against a server that answers as llama-server does and holds real state files: what
// reaches it, what does not, and what the program says. With a real one: tests/engine/server_test.py.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/kv_file.h"
#include "formats/kv_range.h"
#include "tests/fake_llama.h"
#include "tests/fetch_samples.h"
#include "tests/program_run.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

const std::string kSamples = KVPACK_SAMPLES_DIR;
const std::string kModel = kSamples + "/nano-f16.gguf";

std::string sample(const std::string& name) { return kSamples + "/llama/lighthouse-" + name + ".slot.bin"; }
Bytes sample_bytes(const std::string& name) { return must(read_whole_file(sample(name))); }

// A server whose slot holds nothing yet, the folder between it and us, and an archive of the sample context.
class Scene {
 public:
  Scene() : fake(must_folder("slots")) {
    fake.model_path = kModel;
    fake.meta = {{"n_vocab", 4096}, {"n_embd", 256}, {"n_params", 4000000}};
    fake.tokens_of = [](ByteSpan state) {
      const auto file = read_kv_file(Bytes(state.begin(), state.end()), {});
      return file.ok() ? file->tokens : std::vector<int32_t>();
    };
    fake.state_of_none =
        as_bytes(std::string("qsgg\x03\0\0\0\x04\0\0\0\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\0\0\0\0"
                             "\x01\0\0\0\0\0\0\0",
                             36));
    set_layout("f16");
    encode("ctx.kvp", {"--model", kModel, "--quality", "lossless"});
  }
  // Its cache is laid out as the sample's.
  void set_layout(const std::string& name) {
    fake.state_of_slot = sample_bytes(name);
    CHECK(run_kvpack({"encode", sample(name), "-q", "-f", "--quality", "lossless", "-o", scratch.file("one.kvp")})
              .exit_code == 0);
    CHECK(run_kvpack({"decode", scratch.file("one.kvp"), "-q", "-f", "--tokens", "0:1", "-o", scratch.file("one.bin")})
              .exit_code == 0);
    fake.state_of_one = must(read_whole_file(scratch.file("one.bin")));
  }
  void encode(const std::string& name, std::vector<std::string> options) {
    options.insert(options.begin(), {"encode", sample("f16"), "-q", "-o", scratch.file(name)});
    REQUIRE(run_kvpack(options).exit_code == 0);
  }
  std::vector<std::string> with_engine(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--engine", "llama-server=" + fake.url(), "--slot-save-path", fake.folder});
    return arguments;
  }
  Outcome load(const std::string& archive, const std::vector<std::string>& options = {}) const {
    std::vector<std::string> arguments = {"load", scratch.file(archive)};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return run_kvpack(with_engine(arguments));
  }
  // Refused with this exit code and these words, before the engine was handed anything; no file is left.
  void check_refused(const Outcome& outcome, int exit_code, const std::string& words) const {
    CAPTURE(outcome.err);
    CHECK(outcome.exit_code == exit_code);
    CHECK(outcome.err.find(words) != std::string::npos);
    CHECK(outcome.out.empty());
    CHECK(fake.restores == 0);
    CHECK(std::filesystem::is_empty(fake.folder));
  }

  engine::ScratchFolder scratch;
  FakeLlama fake;

 private:
  std::string must_folder(const std::string& name) {
    REQUIRE(scratch.ok());
    std::filesystem::create_directory(scratch.file(name));
    return scratch.file(name);
  }
};

}  // namespace

TEST_CASE("load: a lossless context reaches the slot to the byte, and is reused") {
  Scene scene;
  const Outcome outcome = scene.load("ctx.kvp", {"--json"});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  CHECK(scene.fake.restored == sample_bytes("f16"));
  CHECK(std::filesystem::is_empty(scene.fake.folder));
  const size_t last = outcome.out.rfind('\n', outcome.out.size() - 2);
  const auto done = nlohmann::json::parse(outcome.out.substr(last + 1));
  CHECK(done.at("event") == "done");
  CHECK(done.at("tokens") == 1283);
  CHECK(done.at("reused_tokens") == 1282);
  CHECK(done.at("computed_tokens") == 1);
  CHECK(scene.fake.slot.size() == 1283);
}

TEST_CASE("save and load: a range of a slot's tokens, and back behind those in front of it") {
  Scene scene;
  const Bytes whole = sample_bytes("f16");
  const KvFile file = must(read_kv_file(whole, {}));
  const auto cut = [&](uint32_t end) { return must(cut_range(std::make_shared<const FileBytes>(whole), {0, end})); };
  scene.fake.slot = file.tokens;
  const auto save = [&](const std::string& range) {
    return run_kvpack(scene.with_engine(
        {"save", "--range", range, "--quality", "lossless", "-q", "-f", "-o", scene.scratch.file("part.kvp")}));
  };
  CHECK(save("1200:1300").exit_code == 2);
  CHECK(save("x").exit_code == 2);
  REQUIRE(save("600:900").exit_code == 0);

  scene.fake.state_of_slot = cut(600);
  scene.fake.slot.resize(600);
  const Outcome loaded = scene.load("part.kvp", {"--json"});
  CAPTURE(loaded.err);
  REQUIRE(loaded.exit_code == 0);
  const KvFile joined = must(read_kv_file(scene.fake.restored, {}));
  CHECK(joined.tokens == std::vector<int32_t>(file.tokens.begin(), file.tokens.begin() + 900));
  CHECK(must(cut_range(std::make_shared<const FileBytes>(scene.fake.restored), {300, 700})) ==
        must(cut_range(std::make_shared<const FileBytes>(whole), {300, 700})));
  const size_t last = loaded.out.rfind('\n', loaded.out.size() - 2);
  CHECK(nlohmann::json::parse(loaded.out.substr(last + 1)).at("reused_tokens") == 899);

  // Behind too few tokens, or none.
  scene.fake.restores = 0;
  scene.fake.state_of_slot = cut(500);
  scene.fake.slot.resize(500);
  scene.check_refused(scene.load("part.kvp"), 2, "begins at position 600");
  scene.fake.slot.clear();
  scene.check_refused(scene.load("part.kvp"), 2, "begins at position 600");
}

TEST_CASE("load: the layout is the server's, not the file's") {
  Scene scene;
  for (const std::string name : {"f16-transposed-v", "4-streams"}) {
    scene.set_layout(name);
    scene.fake.slot.clear();
    const Outcome outcome = scene.load("ctx.kvp");
    CAPTURE(outcome.err);
    REQUIRE(outcome.exit_code == 0);
    CHECK(scene.fake.restored.size() == sample_bytes(name).size());
    const KvFile got = must(read_kv_file(scene.fake.restored, {}));
    const KvFile want = must(read_kv_file(sample_bytes(name), {}));
    CHECK(got.description == want.description);
    CHECK(got.tensor.token_sets[0].stream == want.tensor.token_sets[0].stream);
  }
}

TEST_CASE("load: what follows the context is computed on top of it") {
  Scene scene;
  must(engine::write_file(scene.scratch.file("rest.txt"), as_byte_span("and then?")));
  const Outcome outcome = scene.load("ctx.kvp", {"--then", scene.scratch.file("rest.txt")});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  CHECK(scene.fake.slot.size() == 1283 + 9);
  CHECK(scene.fake.computed.back() == 9);
  CHECK(outcome.out.find("1,283 tokens reused, 9 computed") != std::string::npos);
}

TEST_CASE("load: another model, a smaller context, another cache type: refused before anything reaches the server") {
  Scene scene;
  SUBCASE("context") {
    scene.fake.context_tokens = 1283;
    scene.check_refused(scene.load("ctx.kvp"), 2, "the context has 1,283 tokens, a slot of");
    scene.fake.context_tokens = 1284;
    CHECK(scene.load("ctx.kvp").exit_code == 0);
  }
  SUBCASE("cache type") {
    scene.set_layout("q8_0");
    scene.check_refused(scene.load("ctx.kvp"), 2, "the context's K cache is f16, the engine's q8_0");
    CHECK(scene.fake.slot.empty());  // the probe is gone
    const Outcome converted = scene.load("ctx.kvp", {"--convert"});
    CHECK(converted.exit_code == 0);
    CHECK(scene.fake.restored.size() == sample_bytes("q8_0").size());
  }
  SUBCASE("cache type, of a slot that is in use") {
    scene.set_layout("q8_0");
    scene.fake.slot = {1, 2, 3};
    scene.check_refused(scene.load("ctx.kvp"), 2, "the context's K cache is f16, the engine's q8_0");
    CHECK(scene.fake.slot.size() == 3);  // as it was
    CHECK(scene.fake.computed.empty());
  }
  SUBCASE("model: another fingerprint") {
    const Outcome model = run_kvpack({"model", kModel, "-q", "-o", scene.scratch.file("other.json")});
    REQUIRE(model.exit_code == 0);
    auto json = nlohmann::json::parse(as_text(must(read_whole_file(scene.scratch.file("other.json")))));
    json["fingerprint"] = "gguf:00112233445566778899aabbccddeeff";
    must(engine::write_file(scene.scratch.file("other.json"), as_byte_span(json.dump())));
    scene.encode("other.kvp", {"--model", scene.scratch.file("other.json")});
    scene.check_refused(scene.load("other.kvp"), 2, "gguf:00112233445566778899aabbccddeeff");
    scene.check_refused(scene.load("other.kvp", {"--trust-model"}), 2, "the context is of");
    scene.check_refused(scene.load("ctx.kvp", {"--model", scene.scratch.file("other.json")}), 2, "but llama-server at");
  }
  SUBCASE("model: numbers that are not the file's") {
    scene.fake.meta["n_params"] = 4000001;
    scene.check_refused(scene.load("ctx.kvp"), 2, "has 4000000 parameters");
    scene.fake.meta = {{"n_vocab", 1000}};
    scene.check_refused(scene.load("ctx.kvp"), 2, "has 4096 token ids");
  }
  SUBCASE("model: unknown") {
    scene.encode("unknown.kvp", {});
    scene.check_refused(scene.load("unknown.kvp"), 2, "encoded without --model");
    scene.fake.model_path = "/nowhere/model.gguf";
    scene.check_refused(scene.load("ctx.kvp"), 2, "'/nowhere/model.gguf' is not to be seen from here");
    CHECK(scene.load("ctx.kvp", {"--model", kModel}).exit_code == 0);
    CHECK(scene.load("unknown.kvp", {"--trust-model"}).exit_code == 0);
  }
  SUBCASE("model: trusted, but of another shape") {
    REQUIRE(run_kvpack({"encode", kSamples + "/smollm2-harbour.slot.bin", "-q", "-o", scene.scratch.file("smol.kvp")})
                .exit_code == 0);
    scene.check_refused(scene.load("smol.kvp", {"--trust-model"}), 2, "token id");
    scene.fake.meta = {};
    scene.check_refused(scene.load("smol.kvp", {"--trust-model"}), 2, "60 planes of keys and values");
  }
}

TEST_CASE("load: no such slot, folder or engine; an archive that is damaged") {
  Scene scene;
  scene.check_refused(scene.load("ctx.kvp", {"--slot", "1"}), 2, "no slot 1");
  scene.check_refused(run_kvpack({"load", scene.scratch.file("ctx.kvp"), "--engine", "vllm=http://127.0.0.1:1",
                                  "--slot-save-path", "."}),
                      2, "no engine of the kind 'vllm'");
  scene.check_refused(run_kvpack({"load", scene.scratch.file("ctx.kvp"), "--engine", scene.fake.url(),
                                  "--slot-save-path", scene.scratch.file("nowhere")}),
                      30, "is no folder");
  const Outcome elsewhere = run_kvpack({"load", scene.scratch.file("ctx.kvp"), "--engine", scene.fake.url(),
                                        "--slot-save-path", scene.scratch.file("")});
  CHECK(elsewhere.exit_code == 30);
  CHECK(elsewhere.err.find("the folder is not its --slot-save-path") != std::string::npos);
  for (const auto& file : std::filesystem::directory_iterator(scene.fake.folder)) std::filesystem::remove(file);
  Bytes archive = must(read_whole_file(scene.scratch.file("ctx.kvp")));
  archive[archive.size() / 2] ^= std::byte{1};
  must(engine::write_file(scene.scratch.file("damaged.kvp"), archive));
  scene.check_refused(scene.load("damaged.kvp"), 12, "checksum");
}

TEST_CASE("load: a server that refuses the state or does not reuse it is an error, and no file is left") {
  Scene scene;
  scene.fake.forgets = true;
  const Outcome forgot = scene.load("ctx.kvp");
  CHECK(forgot.exit_code == 20);
  CHECK(forgot.err.find("reuses 0 of its 1283 tokens") != std::string::npos);
  scene.fake.forgets = false;
  scene.fake.tokens_of = [](ByteSpan) { return std::vector<int32_t>(5); };
  const Outcome fewer = scene.load("ctx.kvp");
  CHECK(fewer.exit_code == 20);
  CHECK(fewer.err.find("restored 5 tokens, the context has 1283") != std::string::npos);
  scene.fake.tokens_of = {};
  const Outcome refused = scene.load("ctx.kvp");
  CHECK(refused.exit_code == 20);
  CHECK(refused.err.find("Unable to restore slot") != std::string::npos);
  CHECK(std::filesystem::is_empty(scene.fake.folder));
}

TEST_CASE("save: a slot becomes an archive, through a file or a pipe, and back") {
  Scene scene;
  const Outcome empty = run_kvpack(scene.with_engine({"save", "-o", scene.scratch.file("saved.kvp")}));
  CHECK(empty.exit_code == 2);
  CHECK(empty.err.find("holds no tokens") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(scene.scratch.file("saved.kvp")));
  scene.fake.slot = {1, 2, 3};
  RunSettings pipe;
  pipe.output = scene.scratch.file("saved.kvp");
  const Outcome saved = run_kvpack(scene.with_engine({"save", "--quality", "lossless", "-o", "-"}), pipe);
  CAPTURE(saved.err);
  REQUIRE(saved.exit_code == 0);
  CHECK(std::filesystem::is_empty(scene.fake.folder));
  RunSettings back;
  back.input = scene.scratch.file("saved.kvp");
  const Outcome loaded = run_kvpack(scene.with_engine({"load", "-"}), back);
  CAPTURE(loaded.err);
  CHECK(loaded.exit_code == 0);
  CHECK(scene.fake.restored == sample_bytes("f16"));
}

TEST_CASE("save: the model must be what the server runs, and be there") {
  Scene scene;
  scene.fake.slot = {1, 2, 3};
  scene.fake.model_path = "/nowhere/model.gguf";
  scene.check_refused(run_kvpack(scene.with_engine({"save", "-o", scene.scratch.file("saved.kvp")})), 2,
                      "name the model file with --model");
  scene.fake.meta["n_embd"] = 640;
  scene.check_refused(run_kvpack(scene.with_engine({"save", "--model", kModel, "-o", scene.scratch.file("saved.kvp")})),
                      2, "has 256 values per embedding");
}
