// SPDX-License-Identifier: Apache-2.0
#include "formats/kv_range.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "formats/kv_planes.h"
#include "formats/llama_state.h"

namespace kvpack {
namespace {

Status match(const KvFile& state, const KvFile& part) {
  const auto& ours = state.tensor.planes;
  const auto& theirs = part.tensor.planes;
  if (ours.size() != theirs.size()) {
    return invalid_argument(fmt::format("the part has {} planes, the state {}", theirs.size(), ours.size()));
  }
  for (size_t p = 0; p < ours.size(); ++p) {
    const KvView& a = ours[p].view;
    const KvView& b = theirs[p].view;
    if (a.dtype == b.dtype && a.channels() == b.channels()) continue;
    return invalid_argument(fmt::format("plane {}: the part has {} channels of {}, the state {} of {}", p, b.channels(),
                                        dtype_name(b.dtype), a.channels(), dtype_name(a.dtype)));
  }
  return {};
}

// Where `part` is put, the state has the same tokens or ends.
Status check_place(const KvFile& state, TokenRange has, const KvFile& part, TokenRange put) {
  if (put.begin > has.end || put.begin < has.begin) {
    return invalid_argument(
        fmt::format("tokens {} to {} leave a gap: the state has {} to {}", put.begin, put.end, has.begin, has.end));
  }
  for (uint32_t at = put.begin; at < std::min(put.end, has.end); ++at) {
    const int32_t ours = state.tokens[at - has.begin];
    const int32_t theirs = part.tokens[at - put.begin];
    if (ours == theirs) continue;
    return invalid_argument(fmt::format("the part has token {} at position {}, the state {}", theirs, at, ours));
  }
  return {};
}

// How the state's file is laid out, apart from how many tokens it holds.
Result<LlamaLayout> layout_of(const KvFile& file) {
  if (file.format != KvFileFormat::kLlamaState) return unsupported("only llama.cpp states are joined");
  KVPACK_ASSIGN_OR_RETURN(const LlamaContainer container, read_llama_container(file.container, kMaxRebuiltFileBytes));
  if (container.state.session) return unsupported("a prompt-cache session: only sequence files are joined");
  const std::vector<LlamaStream>& streams = container.state.blocks.at(0).streams;
  LlamaLayout layout;
  layout.streams = static_cast<uint32_t>(streams.size());
  layout.stream = file.tensor.token_sets[0].stream;
  layout.transposed_v = streams[*layout.stream].transposed_v;
  layout.packed_payload = container.state.packed_payload;
  for (const KvPlane& plane : file.tensor.planes) {
    (plane.side == Side::kKey ? layout.key_type : layout.value_type) = plane.view.dtype;
  }
  return layout;
}

}  // namespace

Result<TokenRange> range_of(const KvFile& file) {
  if (file.has_opaque_state) return unsupported("recurrent state is of all tokens at once");
  if (file.tensor.token_sets.empty()) return invalid_argument("the state holds no tokens");
  if (file.tensor.token_sets.size() != 1) {
    return unsupported(fmt::format("{} token sets (sliding windows, or several streams): no range of tokens",
                                   file.tensor.token_sets.size()));
  }
  const std::vector<int32_t>& positions = file.tensor.token_sets[0].positions;
  if (positions.empty()) return invalid_argument("the state holds no tokens");
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] != positions[0] + static_cast<int64_t>(i) || positions[0] < 0) {
      return unsupported(fmt::format("positions have gaps, or are out of order, at token {}", i));
    }
  }
  if (file.tokens.size() != positions.size()) {
    return unsupported(fmt::format("{} token ids for {} tokens", file.tokens.size(), positions.size()));
  }
  const auto begin = static_cast<uint32_t>(positions[0]);
  return TokenRange{begin, begin + static_cast<uint32_t>(positions.size())};
}

Result<Bytes> cut_range(std::shared_ptr<const FileBytes> state, TokenRange range) {
  KVPACK_ASSIGN_OR_RETURN(KvFile file, read_kv_file(std::move(state), {}));
  KVPACK_ASSIGN_OR_RETURN(const TokenRange has, range_of(file));
  if (range.end == UINT32_MAX) range.end = has.end;
  if (range.begin < has.begin || range.end > has.end || range.begin >= range.end) {
    return invalid_argument(fmt::format("tokens {} to {} were asked for, the state has {} to {}", range.begin,
                                        range.end, has.begin, has.end));
  }
  const uint32_t first = range.begin - has.begin;
  const uint32_t count = range.end - range.begin;
  TokenSet& set = file.tensor.token_sets[0];
  const std::vector<int32_t> tokens(file.tokens.begin() + first, file.tokens.begin() + first + count);
  set.positions = {set.positions.begin() + first, set.positions.begin() + first + count};
  for (KvPlane& plane : file.tensor.planes) plane.view = slice_tokens(plane.view, first, count);
  return write_llama_state(file.tensor, tokens, file.container, {});
}

Result<Bytes> join_range(std::shared_ptr<const FileBytes> state_bytes, std::shared_ptr<const FileBytes> part_bytes) {
  KVPACK_ASSIGN_OR_RETURN(const KvFile state, read_kv_file(std::move(state_bytes), {}));
  auto part = read_kv_file(std::move(part_bytes), {});
  if (!part.ok()) return part.error().within("the part");
  KVPACK_ASSIGN_OR_RETURN(const TokenRange has, range_of(state));
  KVPACK_ASSIGN_OR_RETURN(const TokenRange put, range_of(*part));
  KVPACK_RETURN_IF_ERROR(match(state, *part));
  KVPACK_RETURN_IF_ERROR(check_place(state, has, *part, put));
  const uint32_t count = std::max(has.end, put.end) - has.begin;
  KvTensor joined;
  TokenSet& set = joined.token_sets.emplace_back();
  set.stream = state.tensor.token_sets[0].stream;
  set.positions.resize(count);
  std::iota(set.positions.begin(), set.positions.end(), static_cast<int32_t>(has.begin));
  std::vector<Bytes> rows;
  rows.reserve(state.tensor.planes.size());
  for (size_t p = 0; p < state.tensor.planes.size(); ++p) {
    KvPlane plane = state.tensor.planes[p];
    const KvView& theirs = part->tensor.planes[p].view;
    Bytes& values = rows.emplace_back(count * plane.view.packed_row_bytes());
    load_raw(plane.view, 0, plane.view.tokens, values.data());
    load_raw(theirs, 0, theirs.tokens, values.data() + (put.begin - has.begin) * plane.view.packed_row_bytes());
    plane.view = make_row_view(static_cast<const std::byte*>(values.data()), plane.view.dtype, count,
                               plane.view.kv_heads, plane.view.head_dim);
    // As the writer will assume: then rows are copied as they are, whatever they hold.
    const bool quantized = dtype_is_quantized(plane.view.dtype);
    plane.view.hadamard_block = quantized ? llama_hadamard_block(plane.side, plane.view.head_dim) : 0;
    joined.planes.push_back(plane);
  }
  std::vector<int32_t> tokens = state.tokens;
  tokens.resize(count);
  std::copy(part->tokens.begin(), part->tokens.end(), tokens.begin() + (put.begin - has.begin));
  KVPACK_ASSIGN_OR_RETURN(const LlamaLayout layout, layout_of(state));
  return write_llama_state(joined, tokens, {}, layout);
}

}  // namespace kvpack
