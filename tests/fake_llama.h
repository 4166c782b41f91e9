// SPDX-License-Identifier: Apache-2.0
// A server that answers as llama-server v0.5.0 does, as far as its adapter asks: one slot's tokens, and state files in
// a folder, but no model. It computes 1,000 tokens/s, on paper.
#pragma once

#include <httplib.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "formats/byte_io.h"

namespace kvpack {

inline Bytes as_bytes(std::string_view text) {
  const ByteSpan span = as_byte_span(text);
  return Bytes(span.begin(), span.end());
}

class FakeLlama {
 public:
  explicit FakeLlama(std::string slot_folder = "") : folder(std::move(slot_folder)) {
    get("/health", [] { return nlohmann::json{{"status", "ok"}}; });
    get("/props", [this] {
      return nlohmann::json{
          {"model_path", model_path}, {"total_slots", 1}, {"default_generation_settings", {{"n_ctx", context_tokens}}}};
    });
    get("/v1/models", [this] { return nlohmann::json{{"data", {{{"id", model_path}, {"meta", meta}}}}}; });
    server_.Post("/tokenize", [this](const httplib::Request& request, httplib::Response& response) {
      const auto body = nlohmann::json::parse(request.body);
      nlohmann::json tokens = nlohmann::json::array();
      if (body.at("add_special").get<bool>()) tokens.push_back(1);
      for (const char c : body.at("content").get<std::string>()) tokens.push_back(c);
      answer(response, {{"tokens", tokens}});
    });
    server_.Post("/completion", [this](const httplib::Request& request, httplib::Response& response) {
      complete(nlohmann::json::parse(request.body), response);
    });
    server_.Post("/slots/0", [this](const httplib::Request& request, httplib::Response& response) {
      act(request.get_param_value("action"), nlohmann::json::parse(request.body), response);
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~FakeLlama() {
    server_.stop();
    thread_.join();
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

  std::string folder;
  std::string model_path = "/nowhere/model.gguf";
  nlohmann::json meta = nlohmann::json::object();
  uint32_t context_tokens = 4096;
  Bytes state_of_slot;                                      // what it saves while the slot has tokens
  Bytes state_of_none;                                      // while it has none
  Bytes state_of_one;                                       // while it has one, if set
  std::function<std::vector<int32_t>(ByteSpan)> tokens_of;  // of a state to restore; none: it is refused
  bool forgets = false;                                     // computes everything anew
  bool miscounts = false;  // says that it reused nothing, and does not say that it computed it

  Bytes restored;
  std::vector<int32_t> slot;
  std::vector<size_t> computed;
  size_t restores = 0;  // asked for

 private:
  template <typename Make>
  void get(const char* path, Make make) {
    server_.Get(path, [make](const httplib::Request&, httplib::Response& response) {
      response.set_content(make().dump(), "application/json");
    });
  }
  static void answer(httplib::Response& response, const nlohmann::json& json) {
    response.set_content(json.dump(), "application/json");
  }

  void act(const std::string& action, const nlohmann::json& body, httplib::Response& response) {
    if (action == "erase") {
      slot.clear();
      return answer(response, {{"n_erased", 0}});
    }
    const std::string file = folder + "/" + body.at("filename").get<std::string>();
    if (action == "save") {
      const Bytes& state = slot.empty()                                ? state_of_none
                           : slot.size() == 1 && !state_of_one.empty() ? state_of_one
                                                                       : state_of_slot;
      std::ofstream(file, std::ios::binary) << as_text(state);
      return answer(response, {{"n_saved", slot.size()}});
    }
    ++restores;
    slot.clear();
    const auto bytes = read_whole_file(file);
    if (bytes.ok()) restored = *bytes;
    if (bytes.ok() && tokens_of) slot = tokens_of(restored);
    if (!slot.empty()) return answer(response, {{"n_restored", slot.size()}});
    response.status = 400;
    answer(response, {{"error", {{"code", 400}, {"message", "Unable to restore slot"}}}});
  }

  void complete(const nlohmann::json& body, httplib::Response& response) {
    const auto prompt = body.at("prompt").get<std::vector<int32_t>>();
    size_t same = 0;
    while (same < slot.size() && same < prompt.size() && slot[same] == prompt[same]) ++same;
    same = std::min(same, prompt.size() - 1);  // the last token is always computed
    slot = prompt;
    computed.push_back(prompt.size() - same);
    if (forgets) same = 0;
    const double count = static_cast<double>(prompt.size() - same);
    nlohmann::json all = {{"content", ""}, {"timings", {{"cache_n", same}, {"prompt_n", count}, {"prompt_ms", count}}}};
    if (miscounts) all["timings"]["cache_n"] = 0;
    if (body.value("n_probs", 0) > 0) {
      all["completion_probabilities"] = {{{"id", 5}, {"top_logprobs", {{{"id", 5}, {"logprob", -0.5}}}}}};
    }
    answer(response, all);
  }

  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
};

}  // namespace kvpack
