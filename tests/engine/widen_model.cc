// SPDX-License-Identifier: Apache-2.0
// kvpack_widen_model: a GGUF with quantized weights as one with f32 weights of the same values (llama_engine.h).
#include <cstdio>

#include "net/engine/llama_engine.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: kvpack_widen_model LIBRARY_FOLDER IN.gguf OUT.gguf\n");
    return 2;
  }
  const kvpack::Status status = kvpack::engine::widen_model(argv[1], argv[2], argv[3]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "kvpack_widen_model: %s\n", status.error().message.c_str());
  return 1;
}
