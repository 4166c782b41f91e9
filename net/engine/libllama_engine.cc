// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "formats/kv_file.h"
#include "formats/kv_range.h"

namespace kvpack::engine {

Result<std::unique_ptr<LibllamaEngine>> LibllamaEngine::open(const std::string& library_folder,
                                                             const std::string& model_path,
                                                             const EngineOptions& options) {
  EngineOptions with_ranges = options;
  with_ranges.ranges = true;
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(library_folder, model_path, with_ranges));
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

Status LibllamaEngine::check_has(TokenRange range) const {
  if (range.begin >= range.end || range.end > tokens_.size()) {
    return invalid_argument(
        fmt::format("tokens {} to {} were asked for, the engine has {}", range.begin, range.end, tokens_.size()));
  }
  for (uint32_t at = range.begin; at < range.end; ++at) {
    if (tokens_[at] == kNone) return invalid_argument(fmt::format("the engine has no token at position {}", at));
  }
  return {};
}

Result<std::shared_ptr<const FileBytes>> LibllamaEngine::export_range(TokenRange range) {
  if (range.end == UINT32_MAX) range.end = static_cast<uint32_t>(tokens_.size());
  KVPACK_RETURN_IF_ERROR(check_has(range));
  const std::span<const int32_t> tokens = std::span(tokens_).first(range.end).subspan(range.begin);
  KVPACK_ASSIGN_OR_RETURN(Bytes state, engine_.export_range(tokens, range.begin));
  return std::make_shared<const FileBytes>(std::move(state));
}

Result<TokenRange> LibllamaEngine::import_range(ByteSpan state) {
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(Bytes(state.begin(), state.end()), {}));
  KVPACK_ASSIGN_OR_RETURN(const TokenRange range, range_of(file));
  for (uint32_t at = range.begin; at < std::min<size_t>(range.end, tokens_.size()); ++at) {
    if (tokens_[at] == kNone || tokens_[at] == file.tokens[at - range.begin]) continue;
    return invalid_argument(fmt::format("the state has token {} at position {}, the engine another: {}",
                                        file.tokens[at - range.begin], at, tokens_[at]));
  }
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const auto taken, engine_.import_range(state));
  tokens_.resize(std::max<size_t>(tokens_.size(), range.end), kNone);
  std::copy(file.tokens.begin(), file.tokens.end(), tokens_.begin() + range.begin);
  return range;
}

Result<PrefillReport> LibllamaEngine::recompute(std::span<const int32_t> context, std::span<const uint32_t> chosen) {
  if (chosen.empty()) return PrefillReport{};
  if (tokens_.size() < context.size() || !std::equal(context.begin(), context.end(), tokens_.begin())) {
    return invalid_argument("the engine's tokens are not those of the context");
  }
  if (!std::is_sorted(chosen.begin(), chosen.end(), std::less_equal<>()) || chosen.back() >= context.size()) {
    return invalid_argument(
        fmt::format("tokens to compute are not ascending, or not in a context of {}", context.size()));
  }
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < chosen.size();) {
    size_t next = i + 1;
    while (next < chosen.size() && chosen[next] == chosen[next - 1] + 1) ++next;
    const uint32_t begin = chosen[i];
    const auto count = static_cast<uint32_t>(next - i);
    std::fill_n(tokens_.begin() + begin, count, kNone);
    KVPACK_RETURN_IF_ERROR(engine_.forget(begin, begin + count));
    KVPACK_RETURN_IF_ERROR(engine_.compute(context.subspan(begin, count), begin));
    std::copy_n(context.begin() + begin, count, tokens_.begin() + begin);
    i = next;
  }
  PrefillReport report;
  report.computed_tokens = static_cast<uint32_t>(chosen.size());
  report.reused_tokens = static_cast<uint32_t>(context.size() - chosen.size());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Result<std::shared_ptr<const FileBytes>> LibllamaEngine::export_kv() {
  if (!tokens_.empty()) KVPACK_RETURN_IF_ERROR(check_has({0, static_cast<uint32_t>(tokens_.size())}));
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
