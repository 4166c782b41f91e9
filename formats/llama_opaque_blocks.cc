// SPDX-License-Identifier: Apache-2.0
// Blocks that are kept as they are: recurrent state and DeepSeek 4's compressed caches. They are parsed only to know
// where they end.
//
// DSV4 after its head (12 bytes) and two KV blocks:
//   mode 0: three compressed K caches: version u32 (1 or 2), rows u32, n_stream u32, n_layer u32;
//           per layer: id u32, tensor
//   always: three states: version u32 (1), ratio, state_size, n_embd, n_stream, n_layer u32; per layer: id u32, 2
//   tensors tensor: type i32, row_values u64, rows u64, row_bytes u64, n_stream x rows x row_bytes
#include <fmt/format.h>

#include <cstring>

#include "formats/llama_state.h"

namespace kvpack {
namespace {

constexpr uint32_t kDsv4Magic = 0x34565344;  // "DSV4"

Status skip_recurrent_rows(StateReader& reader, uint32_t cells, std::string_view what, bool second_row) {
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const int32_t type, reader.read<int32_t>(what));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t row_bytes, reader.read<uint64_t>(what));
  if (type != static_cast<int32_t>(DType::kF32) || row_bytes % 4 != 0 || row_bytes >= 1ull << 32) {
    return corrupt(
        fmt::format("{} at offset {}: type {} with rows of {} bytes, expected f32 (0)", what, at, type, row_bytes));
  }
  KVPACK_RETURN_IF_ERROR(reader.take(row_bytes * cells, what));
  if (!second_row) return {};
  KVPACK_ASSIGN_OR_RETURN(const uint64_t second_bytes, reader.read<uint64_t>(what));
  if (second_bytes >= 1ull << 32) {
    return corrupt(fmt::format("{} at offset {}: second rows of {} bytes", what, at, second_bytes));
  }
  KVPACK_RETURN_IF_ERROR(reader.take(second_bytes * cells, what));
  return {};
}

Result<uint32_t> read_recurrent_cells(StateReader& reader, bool session) {
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t cells, reader.read<uint32_t>("recurrent cell count"));
  if (cells > (session ? kMaxLlamaStreams : 1)) {
    return corrupt(fmt::format("recurrent block at offset {}: {} cells, expected {}", at, cells,
                               session ? "at most 256" : "at most 1"));
  }
  for (uint32_t cell = 0; cell < cells; ++cell) {
    KVPACK_RETURN_IF_ERROR(reader.read<int32_t>("recurrent cell position"));
    KVPACK_ASSIGN_OR_RETURN(const uint32_t sequences, reader.read<uint32_t>("recurrent cell sequence count"));
    if (sequences > (session ? kMaxLlamaStreams : 0)) {
      return corrupt(fmt::format("recurrent cell {} after offset {}: {} sequence ids", cell, at, sequences));
    }
    KVPACK_RETURN_IF_ERROR(reader.take(uint64_t{sequences} * 4, "recurrent sequence ids"));
  }
  return cells;
}

Status skip_dsv4_tensor(StateReader& reader, uint32_t streams) {
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const int32_t type, reader.read<int32_t>("DSV4 tensor type"));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t row_values, reader.read<uint64_t>("DSV4 row values"));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t rows, reader.read<uint64_t>("DSV4 rows"));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t row_bytes, reader.read<uint64_t>("DSV4 row size"));
  if (!dtype_is_known(type) || row_bytes >= kMaxLlamaRowBytes || rows >= kMaxLlamaCells ||
      row_values / dtype_block_values(static_cast<DType>(type)) * dtype_block_bytes(static_cast<DType>(type)) !=
          row_bytes) {
    return corrupt(fmt::format("DSV4 tensor at offset {}: type {}, {} rows of {} values in {} bytes", at, type, rows,
                               row_values, row_bytes));
  }
  return reader.take(streams * rows * row_bytes, "DSV4 tensor").ok()  // below 2^56
             ? Status()
             : truncated(fmt::format("DSV4 tensor at offset {}: {} rows of {} bytes, {} bytes are left", at, rows,
                                     row_bytes, reader.remaining()));
}

// `counts` u32 fields, of which the last two are n_stream and n_layer, then `tensors` tensors per layer.
Status skip_dsv4_part(StateReader& reader, uint32_t newest_version, uint32_t counts, uint32_t tensors,
                      WorkBudget& budget) {
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t version, reader.read<uint32_t>("DSV4 part version"));
  if (version < 1 || version > newest_version) {
    return unsupported(
        fmt::format("DSV4 part at offset {}: version {}, known is 1 to {}", at, version, newest_version));
  }
  KVPACK_RETURN_IF_ERROR(reader.take(uint64_t{counts - 2} * 4, "DSV4 part sizes"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t streams, reader.read<uint32_t>("DSV4 stream count"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t layers, reader.read<uint32_t>("DSV4 layer count"));
  if (streams > kMaxLlamaStreams || layers > kMaxLayers) {
    return corrupt(fmt::format("DSV4 part at offset {}: {} streams and {} layers", at, streams, layers));
  }
  for (uint32_t layer = 0; layer < layers; ++layer) {
    KVPACK_RETURN_IF_ERROR(budget.spend(1));
    KVPACK_RETURN_IF_ERROR(reader.read<uint32_t>("DSV4 layer id"));
    for (uint32_t i = 0; i < tensors; ++i) KVPACK_RETURN_IF_ERROR(skip_dsv4_tensor(reader, streams));
  }
  return {};
}

// The bytes between two cursors, none of which are plane data.
ByteSpan bytes_between(const StateReader& from, const StateReader& to) {
  ByteReader ahead = from.bytes_ahead();
  auto bytes = ahead.take(to.consumed() - from.consumed(), "block");
  return bytes.ok() ? *bytes : ByteSpan();
}

}  // namespace

Result<LlamaBlock> read_llama_recurrent_block(StateReader& reader, const LlamaBlockShape& shape, bool session,
                                              WorkBudget& budget) {
  const StateReader start = reader;
  KVPACK_ASSIGN_OR_RETURN(const uint32_t cells, read_recurrent_cells(reader, session));
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t transposed, reader.read<uint32_t>("s_trans"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t layers, reader.read<uint32_t>("trunk layer count"));
  if (transposed != 0 || layers < 1 || layers > kMaxLayers || shape.recurrent_layers > layers) {
    return corrupt(fmt::format("recurrent block at offset {}: s_trans {}, {} layers with {} recurrent ones", at,
                               transposed, layers, shape.recurrent_layers));
  }
  KVPACK_RETURN_IF_ERROR(budget.spend(2 * shape.recurrent_layers + cells + 1));
  for (const std::string_view what : {"recurrent state R", "recurrent state S"}) {
    for (uint32_t layer = 0; layer < shape.recurrent_layers; ++layer) {
      KVPACK_RETURN_IF_ERROR(skip_recurrent_rows(reader, cells, what, shape.ple && what.back() == 'R'));
    }
  }
  LlamaBlock block;
  block.shape = shape;
  block.offset = start.offset();
  block.opaque = bytes_between(start, reader);
  return block;
}

Result<LlamaBlock> read_dsv4_head(StateReader& reader) {
  const StateReader start = reader;
  KVPACK_ASSIGN_OR_RETURN(const uint32_t magic, reader.read<uint32_t>("DSV4 magic"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t version, reader.read<uint32_t>("DSV4 version"));
  KVPACK_RETURN_IF_ERROR(reader.read<uint32_t>("DSV4 mode"));
  if (magic != kDsv4Magic) return corrupt(fmt::format("offset {}: expected the bytes DSV4", start.offset()));
  if (version != 1) {
    return unsupported(fmt::format("DSV4 module at offset {}: version {}, known is 1", start.offset(), version));
  }
  LlamaBlock block;
  block.shape = {LlamaBlockKind::kDsv4Head, false, false, false, 0};
  block.offset = start.offset();
  block.opaque = bytes_between(start, reader);
  return block;
}

Result<LlamaBlock> read_dsv4_tail(StateReader& reader, ByteSpan head, WorkBudget& budget) {
  const StateReader start = reader;
  uint32_t mode = 0;
  std::memcpy(&mode, head.data() + 8, sizeof mode);
  for (int part = 0; mode == 0 && part < 3; ++part) KVPACK_RETURN_IF_ERROR(skip_dsv4_part(reader, 2, 3, 1, budget));
  for (int part = 0; part < 3; ++part) KVPACK_RETURN_IF_ERROR(skip_dsv4_part(reader, 1, 5, 2, budget));
  LlamaBlock block;
  block.shape = {LlamaBlockKind::kDsv4Tail, false, false, false, 0};
  block.offset = start.offset();
  block.opaque = bytes_between(start, reader);
  return block;
}

}  // namespace kvpack
