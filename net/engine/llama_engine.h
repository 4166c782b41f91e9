// SPDX-License-Identifier: Apache-2.0
// A real llama.cpp, through libllama, with the few verbs that measuring a cache's worth needs: fill a cache, save it,
// restore it, and ask what the model says next. One model, one context, one sequence (0). Nothing throws.
//
// A restored cache is compared with a warm one (saved and loaded by the engine itself), never with a fresh prefill:
// the shape of a batch alone changes the last bits of the logits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/kv_tensor.h"
#include "formats/result.h"
#include "net/engine/engine.h"

struct llama_context;
struct llama_model;

namespace kvpack::engine {

struct EngineOptions {
  uint32_t n_ctx = 2048;  // tokens per sequence
  int threads = 1;
  DType key_type = DType::kF16;
  DType value_type = DType::kF16;
  bool flash_attention = true;  // false: V is stored transposed
  uint32_t streams = 1;         // caches of their own for this many sequences; sequence 0 is used
  bool ranges = false;          // parts of the sequence can be taken, put and computed; one stream only
};

// What the model predicts after each of some tokens: [token][vocabulary], as the engine computed them.
struct LogitMatrix {
  uint32_t vocabulary = 0;
  std::vector<float> values;

  size_t rows() const { return vocabulary == 0 ? 0 : values.size() / vocabulary; }
  const float* row(size_t index) const { return values.data() + index * vocabulary; }
};

// What a state file gave back. With llama-server's packed payload, `payload` is that payload and not a token list.
struct RestoredState {
  std::vector<int32_t> payload;  // the words that the engine reports
  uint32_t cached_tokens = 0;    // positions that the engine will not compute again
  uint64_t bytes_read = 0;
};

// Writes `in` (a GGUF) with its weights as f32 numbers of the same values. llama.cpp rounds activations to 8 bits
// wherever weights are quantized, so that the least change of a cache changes the predictions: by a KL of .003 for
// SmolLM2-135M in Q4_1, whatever the change's size. With f32 weights there is no such floor under a codec's own loss.
Status widen_model(const std::string& library_folder, const std::string& in, const std::string& out);

class LlamaEngine {
 public:
  // `library_folder` holds the CPU backends; "": looked for beside libllama.
  static Result<LlamaEngine> open(const std::string& library_folder, const std::string& model_path,
                                  const EngineOptions& options);

  // `markup`: special tokens that the text spells out (<|im_start|>) count, and none is put in front.
  Result<std::vector<int32_t>> tokenize(std::string_view text, bool markup = false) const;
  // Empties the cache, then computes `tokens` at positions 0, 1, ...
  Status prefill(const std::vector<int32_t>& tokens);
  // Computes `tokens` at the positions after those that are there.
  Status append(std::span<const int32_t> tokens);
  // The sequence as a file of it would be (with a plain list of `tokens`), and back. llama.cpp gives a sequence's cells
  // whole: single layers cannot be had.
  Result<Bytes> export_state(std::span<const int32_t> tokens) const;
  Result<RestoredState> import_state(ByteSpan state);
  // With EngineOptions::ranges, by way of a second sequence that shares the first one's cells:
  // the cells at positions `begin` and on, as many as `tokens`;
  Result<Bytes> export_range(std::span<const int32_t> tokens, uint32_t begin);
  // a state's cells to their positions, whatever was there. Returns the first and the number of them;
  Result<std::pair<uint32_t, uint32_t>> import_range(ByteSpan state);
  // and `tokens` computed at the positions from `begin` on, which are empty: they see what is in front of them, and
  // what follows stays.
  Status compute(std::span<const int32_t> tokens, uint32_t begin);
  // Writes the sequence with a plain list of `tokens`; bytes written. The file is not written atomically.
  Result<uint64_t> save_state(const std::string& path, const std::vector<int32_t>& tokens);
  // Empties the cache, then loads the file into it.
  Result<RestoredState> load_state(const std::string& path);

  // Drops the cells at positions `begin` to `end` - 1; the others keep theirs.
  Status forget(uint32_t begin, uint32_t end);

  // Appends `tokens` and returns the logits after each of them.
  Result<LogitMatrix> evaluate(const std::vector<int32_t>& tokens);
  // Appends `first`, then `count` times the likeliest next token; returns those.
  Result<std::vector<int32_t>> continue_greedily(int32_t first, uint32_t count);

  // Of the model and the context.
  EngineFacts facts() const;
  uint32_t key_head_dim() const;
  uint32_t value_head_dim() const;

 private:
  struct FreeModel {
    void operator()(llama_model* model) const;
  };
  struct FreeContext {
    void operator()(llama_context* context) const;
  };

  LlamaEngine() = default;
  uint32_t head_dim_from_metadata(const char* key) const;
  uint32_t next_position(int32_t sequence) const;
  Result<Bytes> sequence_data(int32_t sequence) const;
  // A state file's cells into a sequence, which loses what it had; bytes read.
  Result<RestoredState> fill_sequence(int32_t sequence, ByteSpan state);
  // Computes one batch, with logits for all of its tokens or for none.
  Status decode(int32_t sequence, const int32_t* tokens, uint32_t count, bool want_logits);

  std::unique_ptr<llama_model, FreeModel> model_;
  std::unique_ptr<llama_context, FreeContext> context_;  // freed before its model
};

}  // namespace kvpack::engine
