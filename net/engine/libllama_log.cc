// SPDX-License-Identifier: Apache-2.0
#include "net/engine/libllama_log.h"

#include <llama.h>

#include <mutex>

namespace kvpack::engine {
namespace {

std::mutex last_error_mutex;
std::string last_error;

void keep_errors(ggml_log_level level, const char* text, void*) {
  if (level != GGML_LOG_LEVEL_ERROR) return;
  const std::lock_guard lock(last_error_mutex);
  last_error = text;
  while (!last_error.empty() && last_error.back() == '\n') last_error.pop_back();
}

}  // namespace

void keep_last_log_error() { llama_log_set(keep_errors, nullptr); }

Error log_error(std::string what) {
  const std::lock_guard lock(last_error_mutex);
  if (!last_error.empty()) what += ": " + last_error;
  return io_error(std::move(what));
}

}  // namespace kvpack::engine
