// SPDX-License-Identifier: Apache-2.0
// A language model's engine, as far as a fetch needs one: it computes the KV of a prompt's tokens, says how fast it
// does, and takes and gives KV as a state file.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

struct PrefillReport {
  uint32_t computed_tokens = 0;  // newly
  uint32_t reused_tokens = 0;    // had their KV already
  double seconds = 0;            // of computing
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string name() const = 0;
  // Whether it answers and has its model loaded. Errors: network.
  virtual Status check_health() = 0;
  virtual Result<std::vector<int32_t>> tokenize(const std::string& text) = 0;
  // Computes the KV of `tokens`, a prompt from its beginning; what the engine has of it already is reused. Blocks.
  virtual Result<PrefillReport> prefill(std::span<const int32_t> tokens) = 0;
  // Tokens per second of the prefills so far, 0 before the first.
  virtual double prefill_tokens_per_s() const = 0;
  // The engine's KV as a state file that read_kv_file() reads.
  virtual Result<Bytes> export_kv() = 0;
  // The other way round: a state file becomes the engine's KV. Returns how many tokens it took.
  virtual Result<uint32_t> import_kv(ByteSpan state) = 0;
};

}  // namespace kvpack
