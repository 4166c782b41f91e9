// SPDX-License-Identifier: Apache-2.0
// State files from a plan. Layouts: llama_state.h. What is written is parsed again before it is handed out: a file
// that is short by a byte aborts llama-server.
#include <fmt/format.h>

#include "formats/kv_planes.h"
#include "formats/llama_plan.h"
#include "formats/llama_state.h"

namespace kvpack {
namespace {

ByteSpan bytes_of(const std::vector<int32_t>& words) { return std::as_bytes(std::span(words)); }

void write_payload(ByteWriter& writer, const LlamaPlan& plan) {
  const auto tokens = static_cast<uint32_t>(plan.tokens.size());
  if (plan.payload) {
    writer.write(static_cast<uint32_t>(plan.payload->size() / 4));
    writer.write_bytes(*plan.payload);
    return;
  }
  if (plan.packed_payload) {
    writer.write(tokens + 4);
    writer.write(int32_t{-1});
    writer.write(uint32_t{1});
  }
  writer.write(tokens);
  writer.write_bytes(bytes_of(plan.tokens));
  if (plan.packed_payload) writer.write(uint32_t{0});  // media
}

void write_head(ByteWriter& writer, const LlamaPlan& plan) {
  writer.write(plan.session ? kLlamaSessionMagic : kLlamaSequenceMagic);
  writer.write(plan.session ? kLlamaSessionVersion : kLlamaSequenceVersion);
  write_payload(writer, plan);
  if (!plan.session) return;
  writer.write(static_cast<uint32_t>(plan.architecture.size()));
  writer.write_bytes(as_byte_span(plan.architecture));
}

void write_cell(ByteWriter& writer, const PlannedCell& cell, bool ext, uint32_t stream, bool new_sequence_id) {
  writer.write(cell.position);
  if (cell.record.empty()) {
    writer.write(uint32_t{1});
    if (ext) writer.write_zeros(12);
    writer.write(static_cast<int32_t>(stream));
    return;
  }
  const size_t one_sequence_bytes = ext ? 24 : 12;
  if (new_sequence_id && cell.record.size() == one_sequence_bytes) {
    writer.write_bytes(cell.record.subspan(4, one_sequence_bytes - 8));
    writer.write(static_cast<int32_t>(stream));
  } else {
    writer.write_bytes(cell.record.subspan(4));
  }
}

void write_plane(ByteWriter& writer, const PlannedPlane& plane, const PlannedStream& stream, bool transposed) {
  const auto cells = static_cast<uint32_t>(stream.cells.size());
  const KvView& from = plane.from->view;
  MutableKvView to = make_row_view<std::byte>(nullptr, plane.dtype, cells, from.kv_heads, from.head_dim);
  const uint64_t row_bytes = to.packed_row_bytes();
  Bytes data(row_bytes * cells);
  to.data = data.data();
  to.row_of_token = stream.row_of_token.data();
  to.hadamard_block = plane.hadamard_block;
  writer.write(static_cast<int32_t>(plane.dtype));
  if (transposed) {
    to.token_stride = dtype_block_bytes(plane.dtype);
    to.channel_stride = to.token_stride * cells;
    to.head_stride = to.channel_stride * from.head_dim;
    writer.write(dtype_block_bytes(plane.dtype));
    writer.write(from.channels());
  } else {
    writer.write(row_bytes);
  }
  copy_plane(from, to);
  writer.write_bytes(data);
}

void write_stream(ByteWriter& writer, const PlannedStream& stream, bool ext, uint32_t index) {
  writer.write(static_cast<uint32_t>(stream.cells.size()));
  for (const PlannedCell& cell : stream.cells) write_cell(writer, cell, ext, index, stream.new_sequence_id);
  writer.write(uint32_t{stream.transposed_v});
  writer.write(static_cast<uint32_t>(stream.keys.size()));
  for (const PlannedPlane& plane : stream.keys) write_plane(writer, plane, stream, false);
  for (const PlannedPlane& plane : stream.values) write_plane(writer, plane, stream, stream.transposed_v);
}

void write_block(ByteWriter& writer, const PlannedBlock& block) {
  if (block.shape.kind != LlamaBlockKind::kKv) {
    writer.write_bytes(block.opaque);
    return;
  }
  writer.write(block.streams);
  for (uint32_t stream = 0; stream < block.streams; ++stream) {
    const auto filled = block.filled.find(stream);
    if (filled == block.filled.end()) {
      writer.write(uint32_t{0});
    } else {
      write_stream(writer, filled->second, block.shape.ext, stream);
    }
  }
}

Status check_written(const Bytes& bytes, const LlamaPlan& plan) {
  std::vector<LlamaBlockShape> shapes;
  for (const PlannedBlock& block : plan.blocks) shapes.push_back(block.shape);
  const auto state = read_llama_state_as(StateReader(bytes, StateReader::Mode::kWholeFile), shapes);
  if (!state.ok()) return state.error().within("the file as written does not read back");
  bool same = state->trailing.size() == plan.trailing.size() && state->tokens == plan.tokens;
  for (size_t b = 0; same && b < plan.blocks.size(); ++b) {
    for (const auto& [index, stream] : plan.blocks[b].filled) {
      const LlamaStream& read = state->blocks[b].streams[index];
      same = same && read.cells == stream.cells.size() && read.keys.size() == stream.keys.size() &&
             read.values.size() == stream.values.size();
    }
  }
  if (!same) return corrupt("the file as written reads back differently");
  return {};
}

}  // namespace

Result<Bytes> write_llama_state(const KvTensor& tensor, const std::vector<int32_t>& tokens, ByteSpan container,
                                const LlamaLayout& layout) {
  std::optional<LlamaContainer> base;
  if (!container.empty()) {
    auto opened = read_llama_container(container, kMaxRebuiltFileBytes);
    if (!opened.ok()) return opened.error().within("llama.cpp container");
    base = std::move(*opened);
  }
  KVPACK_ASSIGN_OR_RETURN(const LlamaPlan plan, plan_llama_state(tensor, tokens, base ? &*base : nullptr, layout));
  ByteWriter writer;
  write_head(writer, plan);
  for (const PlannedBlock& block : plan.blocks) write_block(writer, block);
  writer.write_bytes(plan.trailing);
  Bytes bytes = writer.take();
  KVPACK_RETURN_IF_ERROR(check_written(bytes, plan));
  return bytes;
}

}  // namespace kvpack
