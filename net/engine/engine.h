// SPDX-License-Identifier: Apache-2.0
// A language model's engine, as far as contexts that come and go need one: it says what it runs, computes the KV of a
// prompt's tokens, takes and gives KV as a state file, and predicts what follows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "formats/file_bytes.h"
#include "formats/kv_range.h"
#include "formats/result.h"

namespace kvpack {

struct PrefillReport {
  uint32_t computed_tokens = 0;  // newly
  uint32_t reused_tokens = 0;    // had their KV already
  double seconds = 0;            // of computing
};

// What an engine says of the model that it runs; 0 or "" where it says nothing.
struct EngineFacts {
  std::string model_path;       // as the engine sees it
  uint32_t context_tokens = 0;  // that one sequence can hold
  uint32_t vocabulary = 0;      // token ids
  uint32_t embedding = 0;       // values of one token's embedding
  uint64_t parameters = 0;      // of the model
};

// What may follow a prompt.
struct Prediction {
  int32_t token = 0;
  double log_probability = 0;  // natural logarithm
};

// A prompt's beginning has the token in front that the model wants there, if it wants one.
enum class PromptPart : uint8_t { kBeginning, kContinuation };

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string name() const = 0;
  // Whether it answers and has its model loaded. Errors: network.
  virtual Status check_health() = 0;
  virtual Result<EngineFacts> facts() = 0;
  virtual Result<std::vector<int32_t>> tokenize(const std::string& text, PromptPart part) = 0;
  // Computes the KV of `tokens`, a prompt from its beginning; what the engine has of it already is reused. Blocks.
  virtual Result<PrefillReport> prefill(std::span<const int32_t> tokens) = 0;
  // Tokens per second of the prefills so far, 0 before the first.
  virtual double prefill_tokens_per_s() const = 0;
  // The likeliest tokens after `prompt`, the best first, at most `most`. Its KV is computed as by prefill().
  virtual Result<std::vector<Prediction>> predict(std::span<const int32_t> prompt, uint32_t most) = 0;
  // The engine's KV as a state file that read_kv_file() reads.
  virtual Result<std::shared_ptr<const FileBytes>> export_kv() = 0;
  // The other way round: a state file becomes the engine's KV. Returns how many tokens it took.
  virtual Result<uint32_t> import_kv(ByteSpan state) = 0;
  // The same of some tokens: a state file whose positions are theirs. Errors: invalid_argument (tokens that the engine
  // does not have), unsupported (KV that has no tokens of its own: recurrent state, sliding windows).
  virtual Result<std::shared_ptr<const FileBytes>> export_range(TokenRange range) = 0;
  // Tokens of a state file go to their positions, beside what the engine has; in place of the same tokens if it has
  // those. Errors: invalid_argument (a layout that is not the engine's, other tokens at these positions), unsupported
  // as above, and for a gap in front of them where the engine cannot have one.
  virtual Result<TokenRange> import_range(ByteSpan state) = 0;
  // Computes the KV of `chosen` (indices into `context`, ascending) anew: each sees what is in front of it, computed
  // again or as it was; what follows stays. The engine has all of `context`. Errors: invalid_argument; unsupported for
  // sets that the engine cannot do; after an error what was chosen may be gone.
  virtual Result<PrefillReport> recompute(std::span<const int32_t> context, std::span<const uint32_t> chosen) = 0;
  // The engine has no KV any more.
  virtual Status erase_kv() = 0;
};

}  // namespace kvpack
