// SPDX-License-Identifier: Apache-2.0
// A model loaded by the llama.cpp that this build was linked with: its tokens, and one window of text at a time with
// every layer's queries, keys and values looked at as they are computed (libllama_capture.cc). Nothing throws.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/result.h"

struct llama_model;

namespace kvpack::engine {

// What one layer computed for the tokens of a window, f32. The stream's rows may be fewer than the tokens: the last
// ones then (llama.cpp leaves out what no prediction needs).
struct CapturedLayer {
  uint32_t layer = 0;
  uint32_t tokens = 0;
  std::vector<float> query;      // [token][query_head][key_dim], after RoPE
  std::vector<float> key;        // [token][kv_head][key_dim], after RoPE
  std::vector<float> value;      // [token][kv_head][value_dim]
  std::vector<float> output;     // [token][query_head][value_dim], before the output projection
  std::vector<float> projected;  // [token][width], after it
  std::vector<float> stream;     // [row][width], after the layer's attention was added
  uint32_t width = 0;
};
using LayerSink = std::function<Status(const CapturedLayer&)>;

struct CaptureOptions {
  int threads = 1;
  bool flash_attention = true;
};

class LibllamaModel {
 public:
  // Errors: io, with llama.cpp's own last message.
  static Result<LibllamaModel> open(const std::string& path);

  // Without special tokens: bos() goes in front of a window where the model wants it.
  Result<std::vector<int32_t>> tokenize(std::string_view text) const;
  // The token that a text begins with; -1: none.
  int32_t bos() const;

  // Computes `tokens` at positions 0, 1, ... in one batch and hands each attention layer to `sink`, in order and as
  // soon as it is complete: only one layer is held. An error of the sink ends the computation and is returned.
  Status capture(const std::vector<int32_t>& tokens, const CaptureOptions& options, const LayerSink& sink) const;

 private:
  struct FreeModel {
    void operator()(llama_model* model) const;
  };
  LibllamaModel() = default;
  std::unique_ptr<llama_model, FreeModel> model_;
};

}  // namespace kvpack::engine
