// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "formats/kv_file.h"

namespace kvpack::engine {

Result<std::unique_ptr<LibllamaEngine>> LibllamaEngine::open(const std::string& library_folder,
                                                             const std::string& model_path,
                                                             const EngineOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(library_folder, model_path, options));
  return std::unique_ptr<LibllamaEngine>(new LibllamaEngine(std::move(engine), model_path));
}

Result<EngineFacts> LibllamaEngine::facts() {
  EngineFacts facts = engine_.facts();
  facts.model_path = model_path_;
  return facts;
}

Result<std::vector<int32_t>> LibllamaEngine::tokenize(const std::string& text, PromptPart part) {
  return engine_.tokenize(text, /*markup=*/part == PromptPart::kContinuation);
}

Result<PrefillReport> LibllamaEngine::prefill(std::span<const int32_t> tokens) {
  if (tokens.empty()) return invalid_argument("no tokens to compute");
  const auto begin = std::chrono::steady_clock::now();
  const auto differs = std::mismatch(tokens_.begin(), tokens_.end(), tokens.begin(), tokens.end()).first;
  const auto same = static_cast<size_t>(differs - tokens_.begin());
  if (same < tokens_.size()) {
    KVPACK_RETURN_IF_ERROR(engine_.forget(static_cast<uint32_t>(same), UINT32_MAX));
    tokens_.resize(same);
  }
  KVPACK_RETURN_IF_ERROR(engine_.append(tokens.subspan(same)));
  tokens_.assign(tokens.begin(), tokens.end());
  PrefillReport report;
  report.reused_tokens = static_cast<uint32_t>(same);
  report.computed_tokens = static_cast<uint32_t>(tokens.size() - same);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  computed_tokens_ += report.computed_tokens;
  seconds_ += report.seconds;
  return report;
}

Result<std::vector<Prediction>> LibllamaEngine::predict(std::span<const int32_t> prompt, uint32_t most) {
  if (prompt.empty()) return invalid_argument("no tokens to predict from");
  if (prompt.size() > 1) {
    KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const PrefillReport report, prefill(prompt.first(prompt.size() - 1)));
  } else {
    KVPACK_RETURN_IF_ERROR(erase_kv());
  }
  // The last token is computed by itself, for its logits.
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, engine_.evaluate({prompt.back()}));
  tokens_.push_back(prompt.back());
  std::vector<int32_t> order(logits.vocabulary);
  std::iota(order.begin(), order.end(), 0);
  const auto count = static_cast<ptrdiff_t>(std::min(most, logits.vocabulary));
  const float* row = logits.row(0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(),
                    [&](int32_t a, int32_t b) { return row[a] > row[b]; });
  const float largest = *std::max_element(row, row + logits.vocabulary);
  double sum = 0;
  for (uint32_t token = 0; token < logits.vocabulary; ++token) sum += std::exp(double{row[token]} - double{largest});
  std::vector<Prediction> predictions;
  for (auto at = order.begin(); at != order.begin() + count; ++at) {
    predictions.push_back({*at, double{row[*at]} - double{largest} - std::log(sum)});
  }
  return predictions;
}

Result<std::shared_ptr<const FileBytes>> LibllamaEngine::export_kv() {
  KVPACK_ASSIGN_OR_RETURN(Bytes state, engine_.export_state(tokens_));
  return std::make_shared<const FileBytes>(std::move(state));
}

Result<uint32_t> LibllamaEngine::import_kv(ByteSpan state) {
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(Bytes(state.begin(), state.end()), {}));
  tokens_.clear();
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState restored, engine_.import_state(state));
  tokens_ = file.tokens;
  return static_cast<uint32_t>(tokens_.size());
}

Status LibllamaEngine::erase_kv() {
  tokens_.clear();
  return engine_.forget(0, UINT32_MAX);
}

}  // namespace kvpack::engine
