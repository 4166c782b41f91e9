// SPDX-License-Identifier: Apache-2.0
// Which model file a running engine has loaded, and whether a context is of that model.
#pragma once

#include <optional>
#include <string>

#include "formats/model_facts.h"
#include "net/engine/engine.h"

namespace kvpack {

struct EngineModel {
  std::string path;
  ModelFacts facts;
};

// `given` is the file that the user says the engine runs ("": the one that the engine names). Unset if nothing is given
// and the engine's file cannot be seen from here. Errors: invalid_argument if the file is not what the engine runs, by
// its own file's fingerprint or by its vocabulary, embedding and number of parameters; those of reading `given`.
Result<std::optional<EngineModel>> find_engine_model(Engine& engine, const EngineFacts& facts,
                                                     const std::string& given);

// What a context says of the model that computed it.
struct ContextModel {
  std::string name;
  std::string fingerprint;  // ModelFacts::fingerprint; "": unknown
};

enum class ModelMatch : uint8_t {
  kSame,
  kUnknown,  // one of the two is not known, or only by another kind of file
};
// Error: invalid_argument if it is known that they differ; both are named.
Result<ModelMatch> match_model(const ContextModel& context, const std::optional<EngineModel>& engine);

}  // namespace kvpack
