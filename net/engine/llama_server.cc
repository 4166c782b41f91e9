// SPDX-License-Identifier: Apache-2.0
#include "net/engine/llama_server.h"

#include <fmt/format.h>

#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/byte_io.h"
#include "net/url.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxAnswerBytes = 64ull << 20;  // token lists of long texts
constexpr uint64_t kMaxStateBytes = 1ull << 40;

Error bad_answer(const std::string& name, const std::string& what) {
  return {ErrorKind::kNetwork, fmt::format("{}: {}", name, what)};
}

// The file vanishes with the object, whatever happened.
class ScratchFile {
 public:
  explicit ScratchFile(std::filesystem::path path) : path_(std::move(path)) {}
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

 private:
  const std::filesystem::path path_;
};

// A field of a JSON object as an unsigned number; nullopt if it is none.
std::optional<uint32_t> number_in(const nlohmann::json& json, const char* field) {
  if (!json.is_object() || !json.contains(field) || !json[field].is_number()) return std::nullopt;
  const double value = json[field].get<double>();
  if (!(value >= 0) || value > 4e9) return std::nullopt;
  return static_cast<uint32_t>(value);
}

}  // namespace

Result<std::unique_ptr<LlamaServer>> LlamaServer::create(LlamaServerOptions options) {
  while (!options.url.empty() && options.url.back() == '/') options.url.pop_back();
  KVPACK_RETURN_IF_ERROR(parse_url(options.url));
  HttpOptions http;
  http.bearer_token = options.api_key;
  http.http1_only = true;
  // The server says nothing while it computes.
  http.stall_s = options.timeout_s;
  std::unique_ptr<LlamaServer> server(new LlamaServer(std::move(options)));
  KVPACK_ASSIGN_OR_RETURN(server->client_, HttpClient::create(std::move(http)));
  return server;
}

std::string LlamaServer::name() const { return "llama-server at " + printable_url(options_.url); }

Result<std::string> LlamaServer::call(const std::string& method, const std::string& path, const std::string& body) {
  HttpRequest request;
  request.method = method;
  request.url = options_.url + path;
  if (!body.empty()) {
    request.headers = {"Content-Type: application/json"};
    request.body = as_byte_span(body);
    request.has_body = true;
  }
  request.deadline = NetClock::now() +
                     std::chrono::duration_cast<NetClock::duration>(std::chrono::duration<double>(options_.timeout_s));
  KVPACK_ASSIGN_OR_RETURN(HttpResponse response, exchange(*client_, std::move(request), kMaxAnswerBytes));
  if (response.head.status == 200) return std::move(response.body);
  // {"error": {"message": ...}}
  std::string why;
  const auto json = nlohmann::json::parse(response.body, nullptr, false);
  if (json.is_object() && json.contains("error") && json["error"].is_object()) {
    why = json["error"].value("message", "");
  }
  return bad_answer(name(), fmt::format("{} {} answered {}{}{}", method, path, response.head.status,
                                        why.empty() ? "" : ": ", why.substr(0, 200)));
}

Status LlamaServer::check_health() {
  KVPACK_ASSIGN_OR_RETURN(const std::string answer, call("GET", "/health", ""));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  if (json.is_object() && json.contains("status") && json["status"] == "ok") return {};
  return bad_answer(name(), "does not look like a llama-server with a model");
}

Result<std::vector<int32_t>> LlamaServer::tokenize(const std::string& text) {
  const nlohmann::json body = {{"content", text}, {"add_special", true}};
  KVPACK_ASSIGN_OR_RETURN(
      const std::string answer,
      call("POST", "/tokenize", body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  if (!json.is_object() || !json.contains("tokens") || !json["tokens"].is_array()) {
    return bad_answer(name(), "/tokenize gave no tokens");
  }
  std::vector<int32_t> tokens;
  for (const auto& token : json["tokens"]) {
    if (!token.is_number_integer()) return bad_answer(name(), "/tokenize gave something else than token ids");
    tokens.push_back(token.get<int32_t>());
  }
  return tokens;
}

Result<PrefillReport> LlamaServer::prefill(std::span<const int32_t> tokens) {
  if (tokens.empty()) return invalid_argument("no tokens to compute");
  const nlohmann::json body = {{"prompt", std::vector<int32_t>(tokens.begin(), tokens.end())},
                               {"n_predict", 0},
                               {"id_slot", options_.slot},
                               {"cache_prompt", true}};
  KVPACK_ASSIGN_OR_RETURN(const std::string answer, call("POST", "/completion", body.dump()));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  if (!json.is_object() || !json.contains("timings")) return bad_answer(name(), "/completion gave no timings");
  const nlohmann::json& timings = json["timings"];
  const auto computed = number_in(timings, "prompt_n");
  if (!computed || !timings.contains("prompt_ms") || !timings["prompt_ms"].is_number()) {
    return bad_answer(name(), "/completion's timings have no prompt_n and prompt_ms");
  }
  PrefillReport report;
  report.computed_tokens = *computed;
  report.reused_tokens = number_in(timings, "cache_n").value_or(0);
  report.seconds = timings["prompt_ms"].get<double>() / 1000;
  // Check what was reused, not that the call succeeded: a slot that lost its KV computes everything again.
  if (report.computed_tokens + report.reused_tokens != tokens.size()) {
    return bad_answer(name(), fmt::format("{} tokens were sent, {} computed and {} reused", tokens.size(),
                                          report.computed_tokens, report.reused_tokens));
  }
  const std::lock_guard lock(mutex_);
  computed_tokens_ += report.computed_tokens;
  computed_s_ += report.seconds;
  return report;
}

double LlamaServer::prefill_tokens_per_s() const {
  const std::lock_guard lock(mutex_);
  return computed_s_ > 0 ? computed_tokens_ / computed_s_ : 0;
}

std::string LlamaServer::slot_path(const char* action) const {
  return fmt::format("/slots/{}?action={}", options_.slot, action);
}

// The server takes plain names only, below its folder.
std::string LlamaServer::fresh_file_name() const {
  static std::atomic<uint32_t> count = 0;
  return fmt::format("kvpack-{}-{}.bin", ::getpid(), count++);
}

Result<Bytes> LlamaServer::export_kv() {
  if (options_.slot_folder.empty()) return invalid_argument(name() + ": its --slot-save-path is not known");
  const std::string file = fresh_file_name();
  const auto path = std::filesystem::path(options_.slot_folder) / file;
  const ScratchFile scratch(path);
  KVPACK_RETURN_IF_ERROR(call("POST", slot_path("save"), nlohmann::json{{"filename", file}}.dump()));
  return read_whole_file(path.string(), kMaxStateBytes);
}

Result<uint32_t> LlamaServer::import_kv(ByteSpan state) {
  if (options_.slot_folder.empty()) return invalid_argument(name() + ": its --slot-save-path is not known");
  const std::string file = fresh_file_name();
  const auto path = std::filesystem::path(options_.slot_folder) / file;
  const ScratchFile scratch(path);
  // Whole or not at all: a state file that ends early aborts the server.
  KVPACK_ASSIGN_OR_RETURN(const auto out, AtomicFile::create(path.string(), true));
  KVPACK_RETURN_IF_ERROR(out->write(state));
  KVPACK_RETURN_IF_ERROR(out->commit());
  KVPACK_ASSIGN_OR_RETURN(const std::string answer,
                          call("POST", slot_path("restore"), nlohmann::json{{"filename", file}}.dump()));
  const auto restored = number_in(nlohmann::json::parse(answer, nullptr, false), "n_restored");
  if (!restored) return bad_answer(name(), "a restored slot does not say how many tokens it took");
  return *restored;
}

}  // namespace kvpack
