// SPDX-License-Identifier: Apache-2.0
// Whether a running engine can take a context, settled before any of its values is fetched or decoded and before
// anything reaches the engine; and how the context has to be laid out for it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/decode.h"
#include "formats/archive.h"
#include "formats/kv_file.h"
#include "net/engine/engine_model.h"
#include "net/engine/llama_server.h"

namespace kvpack::cli {

struct LoadCheck {
  std::string model;         // --model; "": the file that the engine names
  bool convert = false;      // requantize to the engine's cache type
  bool trust_model = false;  // load although nobody can tell whether the model is the same
};

struct LoadTarget {
  std::vector<int32_t> front;     // that the slot has in front of the context, which begins behind position 0
  std::vector<int32_t> tokens;    // the context's
  bool has_opaque_state = false;  // recurrent: reused only by a longer prompt
  DecodeArguments decoding;       // `base` with the layout that the engine wants
  std::vector<std::string> notes;
};

// Errors: invalid_argument where archive and engine do not fit (both are named), network, what reading either gives.
Result<LoadTarget> check_load(const ArchiveReader& reader, LlamaServer& engine, const LoadCheck& check,
                              DecodeArguments base);

// The same for a context that is made here, by the model file `model`: whether the engine runs that and takes so many
// tokens; and how its state has to be written.
Status check_engine_takes(LlamaServer& engine, const std::string& model, std::span<const int32_t> tokens);
Result<LlamaLayout> layout_in_engine(LlamaServer& engine, const KvTensor& tensor, int32_t first_token,
                                     const ModelFacts& facts);

}  // namespace kvpack::cli
