// SPDX-License-Identifier: Apache-2.0
// What a model predicts after a restored KV file, beside what it predicts after its own: needs a build with llama.cpp.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "cli/bench_methods.h"

namespace kvpack::cli {

struct BenchQuestion {
  std::string model;  // GGUF that predicts
  std::string text;   // begins with the tokens that the file holds
  uint32_t continuation = 512;
};

class BenchEngine {
 public:
  // Loads the model and asks it after `file` itself. Errors: unsupported (a build without llama.cpp), invalid_argument
  // (the text is too short, or does not begin with the file's tokens: both named), io.
  static Result<std::unique_ptr<BenchEngine>> open(const BenchQuestion& question, const BenchFile& file);
  ~BenchEngine();

  // Of the same file restored with other values. Equal bytes are asked about once.
  Result<BenchPredictions> judge(ByteSpan restored);

 private:
  struct State;
  explicit BenchEngine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvpack::cli
