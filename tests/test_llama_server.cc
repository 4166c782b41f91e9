// SPDX-License-Identifier: Apache-2.0
// The llama-server adapter against a server that answers as llama.cpp v0.5.0 does (and, where it says so, as it must
// not).
#include <doctest/doctest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "formats/kv_range.h"
#include "net/engine/engine_front.h"
#include "net/engine/llama_server.h"
#include "tests/fake_llama.h"
#include "tests/fetch_samples.h"
#include "tests/scripted_server.h"

using namespace kvpack;

namespace {

std::unique_ptr<LlamaServer> adapter(const std::string& url, const std::string& folder = "") {
  LlamaServerOptions options;
  options.url = url;
  options.slot_folder = folder;
  options.timeout_s = 20;
  auto server = LlamaServer::create(options);
  REQUIRE(server.ok());
  return std::move(*server);
}

}  // namespace

TEST_CASE("llama-server: health, tokens, prefill that reuses what is there") {
  FakeLlama fake;
  const auto engine = adapter(fake.url() + "/");
  CHECK(engine->check_health().ok());
  CHECK(engine->tokenize("ab", PromptPart::kBeginning).value() == std::vector<int32_t>{1, 'a', 'b'});
  CHECK(engine->prefill_tokens_per_s() == 0);
  std::vector<int32_t> tokens(500);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  const auto first = engine->prefill(std::span(tokens).first(200));
  REQUIRE(first.ok());
  CHECK(first->computed_tokens == 200);
  const auto second = engine->prefill(tokens);
  REQUIRE(second.ok());
  CHECK(second->computed_tokens == 300);
  CHECK(second->reused_tokens == 200);
  CHECK(engine->prefill_tokens_per_s() == doctest::Approx(1000));
  const auto predicted = engine->predict(tokens, 4);
  REQUIRE(predicted.ok());
  REQUIRE(predicted->size() == 1);
  CHECK(predicted->front().token == 5);
  CHECK(predicted->front().log_probability == -0.5);
  const auto facts = engine->facts();
  REQUIRE(facts.ok());
  CHECK(facts->model_path == fake.model_path);
  CHECK(facts->context_tokens == 4096);
  CHECK(facts->parameters == 0);
  fake.miscounts = true;
  CHECK_FALSE(engine->prefill(tokens).ok());
}

TEST_CASE("llama-server: state goes out and in through the slot folder, and leaves nothing there") {
  const auto folder = fresh_folder("slots");
  FakeLlama fake(folder.string());
  fake.state_of_slot = as_bytes("state of 3");
  const auto engine = adapter(fake.url(), folder.string());
  REQUIRE(engine->prefill(std::vector<int32_t>{1, 2, 3}).ok());
  const auto state = engine->export_kv();
  REQUIRE(state.ok());
  CHECK(as_text(**state) == "state of 3");
  fake.tokens_of = [](ByteSpan) { return std::vector<int32_t>(7); };
  CHECK(engine->import_kv(**state).value() == 7);
  CHECK(as_text(fake.restored) == "state of 3");
  fake.tokens_of = [](ByteSpan) { return std::vector<int32_t>(); };
  const auto refused = engine->import_kv(as_byte_span("rubbish"));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().message.find("Unable to restore slot") != std::string::npos);
  CHECK(std::filesystem::is_empty(folder));
  CHECK_FALSE(adapter(fake.url())->export_kv().ok());
  std::filesystem::remove_all(folder);
}

TEST_CASE("llama-server: a range of tokens out of the slot, into it, and computed anew") {
  const auto folder = fresh_folder("ranges");
  FakeLlama fake(folder.string());
  const Bytes whole = read_whole_file(std::string(KVPACK_SAMPLES_DIR) + "/llama/lighthouse-f16.slot.bin").value();
  const KvFile file = read_kv_file(whole, {}).value();
  const auto shared = [](Bytes bytes) { return std::make_shared<const FileBytes>(std::move(bytes)); };
  const auto tokens_of = [](ByteSpan state) {
    return read_kv_file(Bytes(state.begin(), state.end()), {}).value().tokens;
  };
  fake.tokens_of = tokens_of;
  fake.state_of_slot = whole;
  fake.slot = file.tokens;
  const auto engine = adapter(fake.url(), folder.string());
  const auto part = engine->export_range({100, 300});
  REQUIRE(part.ok());
  CHECK(range_of(read_kv_file(*part, {}).value()).value() == TokenRange{100, 300});
  CHECK(engine->export_range({100, 5000}).error().kind == ErrorKind::kInvalidArgument);

  // Over what is there, and behind it.
  CHECK(engine->import_range(**part).value() == TokenRange{100, 300});
  CHECK(tokens_of(fake.restored) == file.tokens);
  fake.state_of_slot = cut_range(shared(whole), {0, 250}).value();
  fake.slot = tokens_of(fake.state_of_slot);
  CHECK(engine->import_range(**part).value() == TokenRange{100, 300});
  CHECK(fake.slot == std::vector<int32_t>(file.tokens.begin(), file.tokens.begin() + 300));
  fake.state_of_slot = cut_range(shared(whole), {0, 90}).value();
  fake.slot = tokens_of(fake.state_of_slot);
  CHECK(engine->import_range(**part).error().kind == ErrorKind::kInvalidArgument);  // a gap
  CHECK(fake.slot.size() == 90);

  // Computed anew: a context's end by a prompt that stops before it, its beginning by way of the state.
  fake.state_of_slot = whole;
  fake.slot = file.tokens;
  fake.computed.clear();
  const auto end = static_cast<uint32_t>(file.tokens.size());
  REQUIRE(engine->recompute(file.tokens, std::vector<uint32_t>{end - 2, end - 1}).ok());
  CHECK(fake.computed == std::vector<size_t>{1, 2});
  fake.computed.clear();
  const auto front = engine->recompute(file.tokens, std::vector<uint32_t>{0, 1, 2});
  REQUIRE(front.ok());
  CHECK(front->computed_tokens == 3);
  CHECK(fake.computed == std::vector<size_t>{3});
  CHECK(fake.slot == file.tokens);
  for (const std::vector<uint32_t>& scattered : {std::vector<uint32_t>{1, 3}, {4, 5, 6}}) {
    CHECK(engine->recompute(file.tokens, scattered).error().kind == ErrorKind::kUnsupported);
  }
  CHECK(engine->recompute(file.tokens, std::vector<uint32_t>{end}).error().kind == ErrorKind::kInvalidArgument);
  CHECK(fake.slot == file.tokens);
  CHECK(std::filesystem::is_empty(folder));
  std::filesystem::remove_all(folder);
}

TEST_CASE("llama-server: answers that make no sense end in one clear error") {
  for (const char* answer : {"", "[]", "{}", "{\"status\":\"loading\"}", "{\"tokens\":\"x\"}", "{\"tokens\":[\"x\"]}",
                             "{\"timings\":{}}", "{\"timings\":{\"prompt_n\":-1,\"prompt_ms\":1}}", "<html>"}) {
    httplib::Server server;
    const auto any = [&](const httplib::Request&, httplib::Response& response) {
      response.set_content(answer, "application/json");
    };
    server.Get(".*", any);
    server.Post(".*", any);
    const int port = server.bind_to_any_port("127.0.0.1");
    std::thread thread([&] { server.listen_after_bind(); });
    while (!server.is_running()) std::this_thread::yield();
    const auto engine = adapter("http://127.0.0.1:" + std::to_string(port));
    CAPTURE(answer);
    CHECK_FALSE(engine->check_health().ok());
    CHECK_FALSE(engine->tokenize("a", PromptPart::kBeginning).ok());
    const auto prefilled = engine->prefill(std::vector<int32_t>{1});
    REQUIRE_FALSE(prefilled.ok());
    CHECK(prefilled.error().kind == ErrorKind::kNetwork);
    CHECK_FALSE(engine->predict(std::vector<int32_t>{1}, 3).ok());
    CHECK_FALSE(engine->facts().ok());
    server.stop();
    thread.join();
  }
  CHECK_FALSE(adapter("http://127.0.0.1:1")->check_health().ok());
  CHECK_FALSE(LlamaServer::create({"ftp://x", "", "", 0, 1}).ok());
}

TEST_CASE("fetch with an engine: the front is recomputed while the back is loaded, where the link is too slow") {
  const SampleArchive sample = fetch_sample(32, 6000);  // a base of about 300 kB
  const std::string body(as_text(sample.file));
  // 64 KiB at once, then 20 kB/s per connection: half of the base in time.
  ScriptedServer slow([&](const auto& request, auto& connection) {
    if (request.number == 0) return answer_right(request, connection, body);
    const RightAnswer right = right_answer(request, body.size());
    connection.send(right.head);
    for (uint64_t at = 0; at < right.bytes; at += 3000) {
      if (!connection.wait(std::chrono::milliseconds(150))) return;
      if (!connection.send(std::string_view(body).substr(right.first + at, std::min<uint64_t>(3000, right.bytes - at))))
        return;
    }
  });
  FakeLlama fake;
  const auto engine = adapter(fake.url());
  std::vector<int32_t> tokens(32 * 8);
  std::vector<uint32_t> ends;
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  for (uint32_t chunk = 1; chunk <= 32; ++chunk) ends.push_back(chunk * 8);
  EngineFront front(*engine, tokens, ends, 200);
  FetchOptions options;
  options.engine = &front;
  options.goal.deadline_s = 3;
  const NetTime begin = NetClock::now();
  const TestFetch fetch = test_fetch(slow.url(), sample, options);
  REQUIRE_MESSAGE(fetch.report.ok(), (fetch.report.ok() ? "" : fetch.report.error().message));
  // The link alone would need 5.6 s.
  CHECK(std::chrono::duration<double>(NetClock::now() - begin).count() < 3.5);
  uint32_t recomputed = 0;
  for (const ChunkAction& action : fetch.report->actions) recomputed += action.kind == ActionKind::kRecompute ? 1 : 0;
  CHECK(recomputed > 0);
  CHECK(fetch.report->actions.back().kind == ActionKind::kLoad);
  REQUIRE_FALSE(fake.computed.empty());
  for (const size_t count : fake.computed) CHECK(count <= 8);  // each chunk once
}

// With a real llama-server: KVPACK_LLAMA_SERVER names the program, KVPACK_LLAMA_MODEL a GGUF.
TEST_CASE("llama-server: the real one" * doctest::skip(std::getenv("KVPACK_LLAMA_SERVER") == nullptr ||
                                                       std::getenv("KVPACK_LLAMA_MODEL") == nullptr)) {
  const auto folder = fresh_folder("real-slots");
  const int port = 20000 + static_cast<int>(::getpid() % 20000);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string port_text = std::to_string(port), slots = folder.string() + "/";
    ::execl(std::getenv("KVPACK_LLAMA_SERVER"), "llama-server", "-m", std::getenv("KVPACK_LLAMA_MODEL"), "--port",
            port_text.c_str(), "--slot-save-path", slots.c_str(), "-c", "1024", "--parallel", "1", "-t", "1",
            "--cache-ram", "0", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  REQUIRE(child > 0);
  const auto engine = adapter("http://127.0.0.1:" + std::to_string(port), folder.string());
  bool healthy = false;
  for (int i = 0; i < 120 && !healthy; ++i) {
    healthy = engine->check_health().ok();
    if (!healthy) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  CHECK(healthy);
  if (healthy) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "The harbour lay quiet under the evening sky. ";
    const auto tokens = engine->tokenize(text, PromptPart::kBeginning);
    REQUIRE(tokens.ok());
    REQUIRE(tokens->size() > 200);
    const auto first = engine->prefill(std::span(*tokens).first(100));
    REQUIRE(first.ok());
    CHECK(first->computed_tokens == 100);
    const auto second = engine->prefill(*tokens);
    REQUIRE(second.ok());
    CHECK(second->reused_tokens >= 99);
    const auto state = engine->export_kv();
    REQUIRE(state.ok());
    CHECK(engine->import_kv(**state).value() == tokens->size());
    const auto warm = engine->prefill(*tokens);
    REQUIRE(warm.ok());
    CHECK(warm->computed_tokens <= 1);
  }
  ::kill(child, SIGTERM);
  ::waitpid(child, nullptr, 0);
  std::filesystem::remove_all(folder);
}
