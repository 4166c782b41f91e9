// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_vocabulary.h"

#include <llama.h>

#include <memory>

#include "net/engine/libllama_backends.h"
#include "net/engine/libllama_log.h"

namespace kvpack::engine {

Result<std::vector<int32_t>> tokenize_for(const std::string& model_path, std::string_view text) {
  keep_last_log_error();
  if (text.size() > (1u << 28)) return limit_exceeded("a text of more than 256 MiB");
  if (!load_backends("")) return log_error("llama.cpp has no backend");
  llama_model_params parameters = llama_model_default_params();
  parameters.vocab_only = true;
  const std::unique_ptr<llama_model, void (*)(llama_model*)> model(
      llama_model_load_from_file(model_path.c_str(), parameters), llama_model_free);
  if (model == nullptr) return log_error(model_path + ": llama.cpp cannot load its vocabulary");
  std::vector<int32_t> tokens(text.size() + 8);  // a token is a byte at least
  const int32_t count =
      llama_tokenize(llama_model_get_vocab(model.get()), text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                     static_cast<int32_t>(tokens.size()), /*add_special=*/false, /*parse_special=*/true);
  if (count < 0) return log_error(model_path + ": llama.cpp cannot tokenize this text");
  tokens.resize(static_cast<size_t>(count));
  return tokens;
}

}  // namespace kvpack::engine
