// SPDX-License-Identifier: Apache-2.0
// One window of text through llama.cpp, watched by its evaluation callback: it asks about every tensor before it
// computes it, and shows those that were wanted. Their names are those of llama.cpp's graphs: "Qcur-7" and so on, "7"
// being the layer. Steps of one computation share a name (projection, norm, RoPE): the last one counts.
#include <fmt/format.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "net/engine/libllama_log.h"
#include "net/engine/libllama_model.h"

namespace kvpack::engine {
namespace {

// Tokens at the end whose predictions are asked for. The last layer computes its stream for these only.
constexpr uint32_t kPredicted = 16;

// What remains of the name "what-layer".
struct TensorName {
  std::string_view what;
  uint32_t layer = 0;
};
std::optional<TensorName> parse_name(std::string_view name) {
  const size_t dash = name.rfind('-');
  if (dash == std::string_view::npos) return std::nullopt;
  TensorName parsed{name.substr(0, dash), 0};
  const auto [end, error] = std::from_chars(name.data() + dash + 1, name.data() + name.size(), parsed.layer);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return parsed;
}

// The result of the output projection has no name of its own everywhere: it is known by its weights.
std::optional<uint32_t> projection_layer(const ggml_tensor* tensor) {
  constexpr std::string_view kBefore = "blk.", kAfter = ".attn_output.weight";
  if (tensor->op != GGML_OP_MUL_MAT || tensor->src[0] == nullptr) return std::nullopt;
  const std::string_view weights = tensor->src[0]->name;
  if (!weights.starts_with(kBefore) || !weights.ends_with(kAfter)) return std::nullopt;
  uint32_t layer = 0;
  const auto [end, error] =
      std::from_chars(weights.data() + kBefore.size(), weights.data() + weights.size() - kAfter.size(), layer);
  if (error != std::errc()) return std::nullopt;
  return layer;
}

// An f32 tensor's values, first dimension fastest, wherever it lies and whatever its strides.
std::vector<float> read_tensor(const ggml_tensor* tensor) {
  std::vector<std::byte> raw(ggml_nbytes(tensor));
  ggml_backend_tensor_get(tensor, raw.data(), 0, raw.size());
  std::vector<float> values(static_cast<size_t>(ggml_nelements(tensor)));
  if (tensor->nb[0] != sizeof(float)) return {};
  float* out = values.data();
  const auto row = static_cast<size_t>(tensor->ne[0]);
  for (int64_t k = 0; k < tensor->ne[2] * tensor->ne[3]; ++k) {
    for (int64_t j = 0; j < tensor->ne[1]; ++j) {
      const size_t at = static_cast<size_t>(j) * tensor->nb[1] +
                        static_cast<size_t>(k % tensor->ne[2]) * tensor->nb[2] +
                        static_cast<size_t>(k / tensor->ne[2]) * tensor->nb[3];
      std::memcpy(out, raw.data() + at, row * sizeof(float));
      out += row;
    }
  }
  return values;
}

class Watcher {
 public:
  Watcher(uint32_t tokens, const LayerSink& sink) : tokens_(tokens), sink_(sink) {}

  static bool callback(ggml_tensor* tensor, bool ask, void* self) {
    auto* watcher = static_cast<Watcher*>(self);
    return ask ? watcher->wants(tensor) : watcher->take(tensor);
  }

  // Hands over what has been gathered.
  Status flush() {
    if (!layer_) return {};
    const CapturedLayer complete = std::move(*layer_);
    layer_.reset();
    if (complete.query.empty() || complete.key.empty()) return {};  // not an attention layer
    return sink_(complete);
  }
  const Status& status() const { return status_; }

 private:
  std::vector<float>* place_of(const ggml_tensor* tensor) {
    if (const auto layer = projection_layer(tensor)) return layer_of(*layer) ? &layer_->projected : nullptr;
    const auto name = parse_name(tensor->name);
    if (!name || !layer_of(name->layer)) return nullptr;
    if (name->what == "Qcur") return &layer_->query;
    if (name->what == "Kcur") return &layer_->key;
    if (name->what == "Vcur") return &layer_->value;
    if (name->what == "kqv_out") return &layer_->output;
    if (name->what == "ffn_inp" || name->what == "sa_out") return &layer_->stream;
    // Attention and feed-forward side by side: the layer's end is the nearest there is.
    if (name->what == "l_out" && layer_->stream.empty()) return &layer_->stream;
    return nullptr;
  }

  // Moves on to `layer` when its first tensor comes; false for one that has been handed over already.
  bool layer_of(uint32_t layer) {
    if (layer_ && layer_->layer == layer) return true;
    if (layer_ && layer < layer_->layer) return false;
    if (status_.ok()) status_ = flush();
    layer_.emplace();
    layer_->layer = layer;
    layer_->tokens = tokens_;
    return true;
  }

  bool wants(const ggml_tensor* tensor) {
    if (tensor->type != GGML_TYPE_F32) return false;
    if (projection_layer(tensor)) return true;
    const auto name = parse_name(tensor->name);
    if (!name) return false;
    constexpr std::string_view kWanted[] = {"Qcur", "Kcur", "Vcur", "kqv_out", "ffn_inp", "sa_out", "l_out"};
    return std::find(std::begin(kWanted), std::end(kWanted), name->what) != std::end(kWanted);
  }

  bool take(const ggml_tensor* tensor) {
    std::vector<float>* place = place_of(tensor);
    if (!status_.ok()) return false;
    if (place == nullptr) return true;
    *place = read_tensor(tensor);
    if (place == &layer_->stream || place == &layer_->projected) layer_->width = static_cast<uint32_t>(tensor->ne[0]);
    return true;
  }

  uint32_t tokens_;
  const LayerSink& sink_;
  std::optional<CapturedLayer> layer_;
  Status status_;
};

struct FreeContext {
  void operator()(llama_context* context) const { llama_free(context); }
};

}  // namespace

Status LibllamaModel::capture(const std::vector<int32_t>& tokens, const CaptureOptions& options,
                              const LayerSink& sink) const {
  const auto count = static_cast<uint32_t>(tokens.size());
  Watcher watcher(count, sink);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = count;  // one batch: each layer's values come all at once
  params.n_seq_max = 1;
  params.n_threads = params.n_threads_batch = options.threads;
  params.flash_attn_type = options.flash_attention ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.cb_eval = Watcher::callback;
  params.cb_eval_user_data = &watcher;
  const std::unique_ptr<llama_context, FreeContext> context(llama_init_from_model(model_.get(), params));
  if (context == nullptr) return log_error(fmt::format("llama.cpp: no context of {} tokens", count));

  llama_batch batch = llama_batch_init(static_cast<int32_t>(count), 0, 1);
  batch.n_tokens = static_cast<int32_t>(count);
  for (uint32_t i = 0; i < count; ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = static_cast<int32_t>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = i + kPredicted >= count ? 1 : 0;
  }
  const int32_t answer = llama_decode(context.get(), batch);
  llama_batch_free(batch);
  if (!watcher.status().ok()) return watcher.status();
  if (answer != 0) return log_error(fmt::format("llama.cpp: computing {} tokens gave {}", count, answer));
  return watcher.flush();
}

}  // namespace kvpack::engine
