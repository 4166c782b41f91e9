// SPDX-License-Identifier: Apache-2.0
#include "cli/blend_engine.h"

#include <algorithm>
#include <thread>

#include "cli/console.h"
#ifdef KVPACK_HAVE_LIBLLAMA
#include "net/engine/libllama_engine.h"
#endif

namespace kvpack::cli {

#ifdef KVPACK_HAVE_LIBLLAMA
Result<std::unique_ptr<Engine>> open_blend_engine(const BlendArguments& arguments, const JoinedContext& context) {
  engine::EngineOptions options;
  options.n_ctx = static_cast<uint32_t>(context.tokens().size());
  options.threads =
      static_cast<int>(arguments.threads > 0 ? arguments.threads : std::max(1u, std::thread::hardware_concurrency()));
  options.key_type = context.tensor().planes[0].view.dtype;
  options.value_type = context.tensor().planes[1].view.dtype;
  KVPACK_ASSIGN_OR_RETURN(auto opened, engine::LibllamaEngine::open("", arguments.model, options));
  return std::unique_ptr<Engine>(std::move(opened));
}
#else
Result<std::unique_ptr<Engine>> open_blend_engine(const BlendArguments&, const JoinedContext&) {
  return with_hint(unsupported("--recompute-by libllama: this build has none"), "leave the option out");
}
#endif

}  // namespace kvpack::cli
