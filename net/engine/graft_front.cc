// SPDX-License-Identifier: Apache-2.0
#include "net/engine/graft_front.h"

#include <fmt/format.h>

#include <algorithm>

#include "formats/kv_file.h"

namespace kvpack {
namespace {

Status match(const KvFile& fetched, const KvFile& engine, uint32_t tokens) {
  if (fetched.tensor.token_sets.size() != 1 || engine.tensor.token_sets.size() != 1) {
    return unsupported("only contexts with one token set can be put together from two halves");
  }
  const auto& ours = fetched.tensor.token_sets[0].positions;
  const auto& theirs = engine.tensor.token_sets[0].positions;
  if (ours.size() < tokens || theirs.size() < tokens ||
      !std::equal(ours.begin(), ours.begin() + tokens, theirs.begin())) {
    return invalid_argument(fmt::format("the engine's state has {} tokens, {} are wanted at the context's positions",
                                        theirs.size(), tokens));
  }
  if (fetched.tensor.planes.size() != engine.tensor.planes.size()) {
    return invalid_argument(fmt::format("the engine's state has {} planes, the context {}", engine.tensor.planes.size(),
                                        fetched.tensor.planes.size()));
  }
  for (size_t p = 0; p < fetched.tensor.planes.size(); ++p) {
    const KvView& a = fetched.tensor.planes[p].view;
    const KvView& b = engine.tensor.planes[p].view;
    if (a.dtype == b.dtype && a.channels() == b.channels()) continue;
    return invalid_argument(fmt::format("plane {}: the engine's state has {} channels of {}, the context {} of {}", p,
                                        b.channels(), dtype_name(b.dtype), a.channels(), dtype_name(a.dtype)));
  }
  return {};
}

void copy_tokens(const KvView& from, const MutableKvView& to, uint32_t tokens) {
  Bytes rows(tokens * from.packed_row_bytes());
  load_raw(from, 0, tokens, rows.data());
  store_raw(to, 0, tokens, rows.data());
}

}  // namespace

Result<Bytes> graft_front(Bytes fetched_bytes, std::shared_ptr<const FileBytes> engine_bytes, uint32_t tokens) {
  KVPACK_ASSIGN_OR_RETURN(const KvFile fetched, read_kv_file(std::move(fetched_bytes), {}));
  auto engine = read_kv_file(std::move(engine_bytes), {});
  if (!engine.ok()) return engine.error().within("the engine's state");
  KVPACK_RETURN_IF_ERROR(match(fetched, *engine, tokens));
  KVPACK_ASSIGN_OR_RETURN(KvFileImage image, open_container(fetched.format, fetched.container, {}));
  for (size_t p = 0; p < image.planes.size(); ++p) {
    const KvView& rest = fetched.tensor.planes[p].view;
    copy_tokens(rest, image.planes[p], rest.tokens);
    copy_tokens(engine->tensor.planes[p].view, image.planes[p], tokens);
  }
  return std::move(*image.bytes);
}

}  // namespace kvpack
