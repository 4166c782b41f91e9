// SPDX-License-Identifier: Apache-2.0
// llama.cpp in process as an Engine: a LlamaEngine that remembers which tokens its cache is of, so that a prompt which
// begins like the last one computes only the rest. KV goes in and out in memory, without files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "net/engine/engine.h"
#include "net/engine/llama_engine.h"

namespace kvpack::engine {

class LibllamaEngine : public Engine {
 public:
  // As LlamaEngine::open(), with ranges.
  static Result<std::unique_ptr<LibllamaEngine>> open(const std::string& library_folder, const std::string& model_path,
                                                      const EngineOptions& options);

  std::string name() const override { return "libllama with " + model_path_; }
  Status check_health() override { return {}; }
  Result<EngineFacts> facts() override;
  Result<std::vector<int32_t>> tokenize(const std::string& text, PromptPart part) override;
  Result<PrefillReport> prefill(std::span<const int32_t> tokens) override;
  double prefill_tokens_per_s() const override { return seconds_ > 0 ? computed_tokens_ / seconds_ : 0; }
  Result<std::vector<Prediction>> predict(std::span<const int32_t> prompt, uint32_t most) override;
  Result<std::shared_ptr<const FileBytes>> export_kv() override;
  // The file's token list must be plain or llama-server's packed one.
  Result<uint32_t> import_kv(ByteSpan state) override;
  // There may be a gap in front, which prefill() then closes by computing all from there on.
  Result<std::shared_ptr<const FileBytes>> export_range(TokenRange range) override;
  Result<TokenRange> import_range(ByteSpan state) override;
  // One batch per run of neighbours.
  Result<PrefillReport> recompute(std::span<const int32_t> context, std::span<const uint32_t> chosen) override;
  Status erase_kv() override;

 private:
  static constexpr int32_t kNone = -1;
  Status check_has(TokenRange range) const;
  LibllamaEngine(LlamaEngine engine, std::string model_path)
      : engine_(std::move(engine)), model_path_(std::move(model_path)) {}

  LlamaEngine engine_;
  const std::string model_path_;
  // That the cache is of, by position; kNone where it has nothing.
  std::vector<int32_t> tokens_;
  double computed_tokens_ = 0;
  double seconds_ = 0;
};

}  // namespace kvpack::engine
