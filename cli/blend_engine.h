// SPDX-License-Identifier: Apache-2.0
// The engine in this process that `blend --recompute-by libllama` leaves computing to.
#pragma once

#include <memory>

#include "cli/blend.h"
#include "net/engine/blend_context.h"
#include "net/engine/engine.h"

namespace kvpack::cli {

// With room for the context, and a cache of its types. Errors: unsupported in a build without libllama; io.
Result<std::unique_ptr<Engine>> open_blend_engine(const BlendArguments& arguments, const JoinedContext& context);

}  // namespace kvpack::cli
