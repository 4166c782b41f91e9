// SPDX-License-Identifier: Apache-2.0
// llama-server (llama.cpp) as an Engine, over HTTP: /health, /props, /v1/models, /tokenize, /completion with the prompt
// cache, slot save, restore and erase. State files pass through the folder that the server was started with
// (--slot-save-path), which must be reachable from here.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "net/engine/engine.h"
#include "net/http_client.h"

namespace kvpack {

struct LlamaServerOptions {
  std::string url;          // "http://127.0.0.1:8080"
  std::string api_key;      // --api-key; may be empty
  std::string slot_folder;  // --slot-save-path; empty: no export, no import
  uint32_t slot = 0;
  double timeout_s = 600;  // of one call
};

class LlamaServer : public Engine {
 public:
  // Errors: invalid_argument.
  static Result<std::unique_ptr<LlamaServer>> create(LlamaServerOptions options);

  std::string name() const override;
  Status check_health() override;
  // Error besides network: invalid_argument for a slot that the server does not have.
  Result<EngineFacts> facts() override;
  Result<std::vector<int32_t>> tokenize(const std::string& text, PromptPart part) override;
  Result<PrefillReport> prefill(std::span<const int32_t> tokens) override;
  double prefill_tokens_per_s() const override;
  Result<std::vector<Prediction>> predict(std::span<const int32_t> prompt, uint32_t most) override;
  // No file of theirs stays in the folder, whatever happens.
  Result<std::shared_ptr<const FileBytes>> export_kv() override;
  Result<uint32_t> import_kv(ByteSpan state) override;
  // By saving the whole slot and cutting, or joining and restoring it whole.
  Result<std::shared_ptr<const FileBytes>> export_range(TokenRange range) override;
  Result<TokenRange> import_range(ByteSpan state) override;
  // One run of neighbours, at the context's beginning or end.
  Result<PrefillReport> recompute(std::span<const int32_t> context, std::span<const uint32_t> chosen) override;
  Status erase_kv() override;

 private:
  explicit LlamaServer(LlamaServerOptions options) : options_(std::move(options)) {}
  Result<std::string> call(const std::string& method, const std::string& path, const std::string& body);
  // Computes `prompt` and predicts one token with its `most` likeliest alternatives (0: none); `answer` is the JSON.
  Result<PrefillReport> complete(std::span<const int32_t> prompt, uint32_t most, std::string& answer);
  Status check_slot_folder() const;
  std::string slot_path(const char* action) const;
  std::string fresh_file_name() const;

  const LlamaServerOptions options_;
  std::unique_ptr<HttpClient> client_;
  mutable std::mutex mutex_;  // of the two sums
  double computed_tokens_ = 0;
  double computed_s_ = 0;
};

}  // namespace kvpack
