// SPDX-License-Identifier: Apache-2.0
#include "net/engine/llama_server.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/byte_io.h"
#include "formats/kv_file.h"
#include "net/url.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxAnswerBytes = 64ull << 20;  // token lists of long texts
constexpr uint64_t kMaxStateBytes = 1ull << 40;

Error bad_answer(const std::string& name, const std::string& what) {
  return {ErrorKind::kNetwork, fmt::format("{}: {}", name, what)};
}

// A field of a JSON object as an unsigned number; nullopt if it is none.
template <typename Number = uint32_t>
std::optional<Number> number_in(const nlohmann::json& json, const char* field) {
  if (!json.is_object() || !json.contains(field) || !json[field].is_number()) return std::nullopt;
  const double value = json[field].get<double>();
  if (!(value >= 0) || value > (sizeof(Number) == 4 ? 4e9 : 9e15)) return std::nullopt;
  return static_cast<Number>(value);
}

// What an answer holds under a path of names; null where it holds nothing.
const nlohmann::json& field_of(const nlohmann::json& json, std::initializer_list<const char*> names) {
  static const nlohmann::json kNothing;
  const nlohmann::json* at = &json;
  for (const char* name : names) {
    if (!at->is_object() || !at->contains(name)) return kNothing;
    at = &(*at)[name];
  }
  return *at;
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

Result<EngineFacts> LlamaServer::facts() {
  EngineFacts facts;
  KVPACK_ASSIGN_OR_RETURN(const std::string props_text, call("GET", "/props", ""));
  const auto props = nlohmann::json::parse(props_text, nullptr, false);
  const auto& path = field_of(props, {"model_path"});
  if (!path.is_string()) return bad_answer(name(), "/props names no model: does not look like a llama-server");
  facts.model_path = path.get<std::string>();
  facts.context_tokens = number_in(field_of(props, {"default_generation_settings"}), "n_ctx").value_or(0);
  const auto slots = number_in(props, "total_slots");
  if (slots && options_.slot >= *slots) {
    return invalid_argument(fmt::format("{}: no slot {}, it has {} (counted from 0)", name(), options_.slot, *slots));
  }
  KVPACK_ASSIGN_OR_RETURN(const std::string models_text, call("GET", "/v1/models", ""));
  const auto models = nlohmann::json::parse(models_text, nullptr, false);
  const auto& data = field_of(models, {"data"});
  if (!data.is_array() || data.empty()) return facts;
  const auto& meta = field_of(data[0], {"meta"});
  facts.vocabulary = number_in(meta, "n_vocab").value_or(0);
  facts.embedding = number_in(meta, "n_embd").value_or(0);
  facts.parameters = number_in<uint64_t>(meta, "n_params").value_or(0);
  return facts;
}

Result<std::vector<int32_t>> LlamaServer::tokenize(const std::string& text, PromptPart part) {
  const nlohmann::json body = {{"content", text}, {"add_special", part == PromptPart::kBeginning}};
  KVPACK_ASSIGN_OR_RETURN(
      const std::string answer,
      call("POST", "/tokenize", body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  const auto& ids = field_of(json, {"tokens"});
  if (!ids.is_array()) return bad_answer(name(), "/tokenize gave no tokens");
  std::vector<int32_t> tokens;
  for (const auto& token : ids) {
    if (!token.is_number_integer()) return bad_answer(name(), "/tokenize gave something else than token ids");
    tokens.push_back(token.get<int32_t>());
  }
  return tokens;
}

Result<PrefillReport> LlamaServer::complete(std::span<const int32_t> prompt, uint32_t most, std::string& answer) {
  if (prompt.empty()) return invalid_argument("no tokens to compute");
  const nlohmann::json body = {{"prompt", std::vector<int32_t>(prompt.begin(), prompt.end())},
                               {"n_predict", most > 0 ? 1 : 0},
                               {"n_probs", most},
                               {"temperature", 0},
                               {"id_slot", options_.slot},
                               {"cache_prompt", true}};
  KVPACK_ASSIGN_OR_RETURN(answer, call("POST", "/completion", body.dump()));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  const nlohmann::json& timings = field_of(json, {"timings"});
  if (!timings.is_object()) return bad_answer(name(), "/completion gave no timings");
  const auto computed = number_in(timings, "prompt_n");
  if (!computed || !timings.contains("prompt_ms") || !timings["prompt_ms"].is_number()) {
    return bad_answer(name(), "/completion's timings have no prompt_n and prompt_ms");
  }
  PrefillReport report;
  report.computed_tokens = *computed;
  report.reused_tokens = number_in(timings, "cache_n").value_or(0);
  report.seconds = timings["prompt_ms"].get<double>() / 1000;
  // Check what was reused, not that the call succeeded: a slot that lost its KV computes everything again.
  if (report.computed_tokens + report.reused_tokens != prompt.size()) {
    return bad_answer(name(), fmt::format("{} tokens were sent, {} computed and {} reused", prompt.size(),
                                          report.computed_tokens, report.reused_tokens));
  }
  const std::lock_guard lock(mutex_);
  computed_tokens_ += report.computed_tokens;
  computed_s_ += report.seconds;
  return report;
}

Result<PrefillReport> LlamaServer::prefill(std::span<const int32_t> tokens) {
  std::string answer;
  return complete(tokens, 0, answer);
}

Result<std::vector<Prediction>> LlamaServer::predict(std::span<const int32_t> prompt, uint32_t most) {
  std::string answer;
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const PrefillReport report, complete(prompt, std::max(most, 1u), answer));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  const auto& steps = field_of(json, {"completion_probabilities"});
  const auto& top = steps.is_array() && !steps.empty() ? field_of(steps[0], {"top_logprobs"}) : steps;
  std::vector<Prediction> predictions;
  for (const auto& entry : top) {
    const auto token = number_in(entry, "id");
    const auto& log_probability = field_of(entry, {"logprob"});
    if (!token || !log_probability.is_number()) break;
    predictions.push_back({static_cast<int32_t>(*token), log_probability.get<double>()});
  }
  if (predictions.empty()) return bad_answer(name(), "/completion gave no probabilities of tokens");
  return predictions;
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

Status LlamaServer::check_slot_folder() const {
  if (options_.slot_folder.empty()) return invalid_argument(name() + ": its --slot-save-path is not known");
  std::error_code error;
  if (std::filesystem::is_directory(options_.slot_folder, error)) return {};
  return io_error(options_.slot_folder + ": is no folder, so it is not what the server's --slot-save-path names");
}

Result<std::shared_ptr<const FileBytes>> LlamaServer::export_kv() {
  KVPACK_RETURN_IF_ERROR(check_slot_folder());
  const std::string file = fresh_file_name();
  const ScratchPath scratch((std::filesystem::path(options_.slot_folder) / file).string());
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const std::string answer,
                          call("POST", slot_path("save"), nlohmann::json{{"filename", file}}.dump()));
  std::error_code error;
  if (!std::filesystem::exists(scratch.path(), error)) {
    return io_error(fmt::format("{}: {} saved its slot, but not here: the folder is not its --slot-save-path",
                                options_.slot_folder, name()));
  }
  return FileBytes::open(scratch.path(), kMaxStateBytes);  // mapped: the file may go
}

Result<uint32_t> LlamaServer::import_kv(ByteSpan state) {
  KVPACK_RETURN_IF_ERROR(check_slot_folder());
  const std::string file = fresh_file_name();
  const ScratchPath scratch((std::filesystem::path(options_.slot_folder) / file).string());
  // Whole or not at all: a state file that ends early aborts the server. Nobody needs it after a power cut.
  KVPACK_ASSIGN_OR_RETURN(const auto out, AtomicFile::create(scratch.path(), true));
  KVPACK_RETURN_IF_ERROR(out->write(state));
  KVPACK_RETURN_IF_ERROR(out->commit(/*survives_power_cut=*/false));
  KVPACK_ASSIGN_OR_RETURN(const std::string answer,
                          call("POST", slot_path("restore"), nlohmann::json{{"filename", file}}.dump()));
  const auto restored = number_in(nlohmann::json::parse(answer, nullptr, false), "n_restored");
  if (!restored) return bad_answer(name(), "a restored slot does not say how many tokens it took");
  return *restored;
}

Result<std::shared_ptr<const FileBytes>> LlamaServer::export_range(TokenRange range) {
  KVPACK_ASSIGN_OR_RETURN(auto state, export_kv());
  auto part = cut_range(std::move(state), range);
  if (!part.ok()) return part.error().within(name());
  return std::make_shared<const FileBytes>(std::move(*part));
}

Result<TokenRange> LlamaServer::import_range(ByteSpan state) {
  auto part = std::make_shared<const FileBytes>(Bytes(state.begin(), state.end()));
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(part, {}));
  KVPACK_ASSIGN_OR_RETURN(const TokenRange range, range_of(file));
  KVPACK_ASSIGN_OR_RETURN(auto slot, export_kv());
  KVPACK_ASSIGN_OR_RETURN(const KvFile held, read_kv_file(slot, {}));
  uint32_t expected = range.end;
  Bytes whole;
  if (!held.tokens.empty()) {
    auto joined = join_range(std::move(slot), std::move(part));
    if (!joined.ok()) return joined.error().within(name());
    whole = std::move(*joined);
    expected = std::max<uint32_t>(expected, static_cast<uint32_t>(held.tokens.size()));
  } else if (range.begin > 0) {
    return unsupported(fmt::format("{}: holds nothing, and tokens {} to {} would leave a gap in front", name(),
                                   range.begin, range.end));
  }
  KVPACK_ASSIGN_OR_RETURN(const uint32_t taken, import_kv(whole.empty() ? state : ByteSpan(whole)));
  if (taken == expected) return range;
  return bad_answer(name(), fmt::format("took {} of {} tokens", taken, expected));
}

Result<PrefillReport> LlamaServer::recompute(std::span<const int32_t> context, std::span<const uint32_t> chosen) {
  if (chosen.empty()) return PrefillReport{};
  if (!std::is_sorted(chosen.begin(), chosen.end(), std::less_equal<>()) || chosen.back() >= context.size()) {
    return invalid_argument(
        fmt::format("tokens to compute are not ascending, or not in a context of {}", context.size()));
  }
  const bool run = chosen.back() - chosen.front() + 1 == chosen.size();
  if (!run || (chosen.front() > 0 && chosen.back() + 1 < context.size())) {
    return unsupported(
        fmt::format("{}: computes only the beginning or the end of a context anew, not {} tokens from "
                    "{} to {} of {}",
                    name(), chosen.size(), chosen.front(), chosen.back(), context.size()));
  }
  if (chosen.front() > 0) {
    // A prompt that ends sooner makes it forget what follows.
    KVPACK_RETURN_IF_ERROR(prefill(context.first(chosen.front())));
    return prefill(context);
  }
  KVPACK_ASSIGN_OR_RETURN(auto before, export_kv());
  KVPACK_RETURN_IF_ERROR(erase_kv());
  KVPACK_ASSIGN_OR_RETURN(PrefillReport report, prefill(context.first(chosen.size())));
  KVPACK_ASSIGN_OR_RETURN(const auto front, export_kv());
  KVPACK_ASSIGN_OR_RETURN(const Bytes whole, join_range(std::move(before), front));
  KVPACK_RETURN_IF_ERROR(import_kv(whole));
  report.reused_tokens = static_cast<uint32_t>(context.size() - chosen.size());
  return report;
}

Status LlamaServer::erase_kv() {
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const std::string answer, call("POST", slot_path("erase"), "{}"));
  return {};
}

}  // namespace kvpack
