// SPDX-License-Identifier: Apache-2.0
// Tokens of a joined context computed again by an engine, in place of the library's own pass through the weights
// (BlendOptions::recompute): in all layers, one call of the engine for each run of neighbours.
#pragma once

#include "net/engine/blend_context.h"
#include "net/engine/engine.h"

namespace kvpack {

// The context goes into the engine, which computes `tokens` (ascending), and what it made of them into the context.
// Errors: the engine's; invalid_argument for a context that the engine gives back otherwise.
Status recompute_in(Engine& engine, std::span<const uint32_t> tokens, JoinedContext& context);

}  // namespace kvpack
