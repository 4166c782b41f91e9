// SPDX-License-Identifier: Apache-2.0
// kvpack_widen_model: a GGUF with quantized weights as one with f32 weights of the same values.
//
// llama.cpp rounds activations to 8 bits wherever weights are quantized, so the least change of a cache changes
// predictions by a KL of about .003 (SmolLM2-135M, Q4_1) whatever its size. With f32 weights there is no such floor,
// and a codec's own loss can be measured.
#include <cstdio>

#include "ggml-backend.h"
#include "llama.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: kvpack_widen_model LIBRARY_FOLDER IN.gguf OUT.gguf\n");
    return 2;
  }
  ggml_backend_load_all_from_path(argv[1]);
  llama_backend_init();
  llama_model_quantize_params parameters = llama_model_quantize_default_params();
  parameters.ftype = LLAMA_FTYPE_ALL_F32;
  parameters.allow_requantize = true;
  const uint32_t answer = llama_model_quantize(argv[2], argv[3], &parameters);
  if (answer != 0) std::fprintf(stderr, "kvpack_widen_model: %s: llama.cpp answers %u\n", argv[2], answer);
  return answer == 0 ? 0 : 1;
}
