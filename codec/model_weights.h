// SPDX-License-Identifier: Apache-2.0
// The weights of a transformer's layers, as the GGUF has them: enough to take a few tokens through the model. Nothing
// is kept in memory but norms; a projection is read block by block while it is applied.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"
#include "formats/gguf_tensor.h"
#include "formats/model_facts.h"

namespace kvpack {

// Values [row][width].
struct Rows {
  uint32_t width = 0;
  std::vector<float> values;

  size_t count() const { return width == 0 ? 0 : values.size() / width; }
  std::span<float> row(size_t i) { return std::span(values).subspan(i * width, width); }
  std::span<const float> row(size_t i) const { return std::span(values).subspan(i * width, width); }
};

class ModelWeights {
 public:
  // Errors: those of read_gguf; unsupported if the file is not a GGUF or lacks a key.
  static Result<ModelWeights> open(ByteSource& source, unsigned threads);

  const std::string& architecture() const { return architecture_; }
  float norm_epsilon() const { return norm_epsilon_; }
  bool has(uint32_t layer, std::string_view tensor) const;
  Result<std::optional<double>> find_number(std::string_view suffix) const {
    return gguf_.find_number(architecture_ + "." + std::string(suffix));
  }
  // The token that a text begins with, if the file names one.
  Result<std::optional<double>> bos_token() const { return gguf_.find_number("tokenizer.ggml.bos_token_id"); }

  // Rows of token_embd. Error: invalid_argument for a token that the model has not.
  Result<Rows> embed(std::span<const int32_t> tokens) const;
  // blk.`layer`.`tensor`.weight as a vector; empty if there is none.
  Result<std::vector<float>> vector_of(uint32_t layer, std::string_view tensor) const;
  // blk.`layer`.`tensor`.weight as a matrix, [row][column].
  Result<Rows> matrix_of(uint32_t layer, std::string_view tensor) const;
  // Each row times blk.`layer`.`tensor`: x W^T, plus the bias if there is one. Error: corrupt if that is not finite.
  Result<Rows> project(uint32_t layer, std::string_view tensor, const Rows& rows) const;

 private:
  ModelWeights(ByteSource& source, Gguf gguf, unsigned threads)
      : source_(&source), gguf_(std::move(gguf)), threads_(threads) {}

  ByteSource* source_;
  Gguf gguf_;
  unsigned threads_;
  std::string architecture_;
  float norm_epsilon_ = 0;
};

}  // namespace kvpack
