// SPDX-License-Identifier: Apache-2.0
// llama-server (llama.cpp) as an Engine, over HTTP: /health, /tokenize, /completion with the prompt cache, slot save
// and restore. State files pass through the folder that the server was started with (--slot-save-path), which must be
// reachable from here.
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
  Result<std::vector<int32_t>> tokenize(const std::string& text) override;
  Result<PrefillReport> prefill(std::span<const int32_t> tokens) override;
  double prefill_tokens_per_s() const override;
  Result<Bytes> export_kv() override;
  Result<uint32_t> import_kv(ByteSpan state) override;

 private:
  explicit LlamaServer(LlamaServerOptions options) : options_(std::move(options)) {}
  Result<std::string> call(const std::string& method, const std::string& path, const std::string& body);
  std::string slot_path(const char* action) const;
  std::string fresh_file_name() const;

  const LlamaServerOptions options_;
  std::unique_ptr<HttpClient> client_;
  mutable std::mutex mutex_;  // of the two sums
  double computed_tokens_ = 0;
  double computed_s_ = 0;
};

}  // namespace kvpack
