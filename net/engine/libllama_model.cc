// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_model.h"

#include <fmt/format.h>
#include <llama.h>

#include "net/engine/libllama_backends.h"
#include "net/engine/libllama_log.h"

namespace kvpack::engine {
void LibllamaModel::FreeModel::operator()(llama_model* model) const { llama_model_free(model); }

Result<LibllamaModel> LibllamaModel::open(const std::string& path) {
  keep_last_log_error();
  if (!load_backends("")) return io_error("llama.cpp: no backend to compute with was found beside its library");
  LibllamaModel model;
  model.model_.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
  if (model.model_ == nullptr) return log_error(fmt::format("{}: llama.cpp cannot load it", path));
  return model;
}

Result<std::vector<int32_t>> LibllamaModel::tokenize(std::string_view text) const {
  if (text.size() > INT32_MAX / 2) return limit_exceeded("a text of more than 1 GiB");
  std::vector<int32_t> tokens(text.size() + 8);  // a token is a byte at least
  const int32_t count =
      llama_tokenize(llama_model_get_vocab(model_.get()), text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                     static_cast<int32_t>(tokens.size()), /*add_special=*/false,
                     /*parse_special=*/false);
  if (count < 0) return io_error(fmt::format("llama.cpp cannot tokenize the text: answer {}", count));
  tokens.resize(static_cast<size_t>(count));
  return tokens;
}

int32_t LibllamaModel::bos() const {
  const llama_vocab* vocabulary = llama_model_get_vocab(model_.get());
  return llama_vocab_get_add_bos(vocabulary) ? llama_vocab_bos(vocabulary) : -1;
}

}  // namespace kvpack::engine
