// SPDX-License-Identifier: Apache-2.0
// The head of a state file and its KV blocks. Layouts: llama_state.h.
#include <fmt/format.h>

#include <cstring>

#include "formats/llama_state.h"

namespace kvpack {
namespace {

int32_t word_at(ByteSpan bytes, uint64_t offset) {
  int32_t word;
  std::memcpy(&word, bytes.data() + offset, sizeof word);
  return word;
}

std::vector<int32_t> words_of(ByteSpan bytes) {
  std::vector<int32_t> words(bytes.size() / 4);
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * 4);
  return words;
}

// llama-server's payload: -1, version 1, n_tokens, tokens, n_media, start_idx[n_media], n_media x (n_bytes, blob).
Status read_packed_payload(LlamaState& state) {
  ByteReader reader(state.payload, 4);
  KVPACK_ASSIGN_OR_RETURN(const uint32_t version, reader.read<uint32_t>("version"));
  if (version != 1) return unsupported(fmt::format("token payload of version {}, known is 1", version));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t tokens, reader.read<uint32_t>("token count"));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan ids, reader.take(uint64_t{tokens} * 4, "tokens"));
  state.tokens = words_of(ids);
  KVPACK_ASSIGN_OR_RETURN(state.media, reader.read<uint32_t>("media count"));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan starts, reader.take(uint64_t{state.media} * 4, "media start indices"));
  for (uint64_t i = 0; i < starts.size() / 4; ++i) {
    KVPACK_ASSIGN_OR_RETURN(const uint32_t blob_bytes, reader.read<uint32_t>("media size"));
    KVPACK_RETURN_IF_ERROR(reader.take(blob_bytes, "media"));
  }
  state.packed_payload = true;
  return {};
}

Status read_sequence_payload(StateReader& reader, LlamaState& state) {
  KVPACK_ASSIGN_OR_RETURN(const uint32_t words, reader.read<uint32_t>("payload size"));
  const uint64_t start = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(state.payload, reader.take(uint64_t{words} * 4, "token payload"));
  if (words == 0 || word_at(state.payload, 0) != -1) {
    state.tokens = words_of(state.payload);
    return {};
  }
  const Status packed = read_packed_payload(state);
  if (packed.ok()) return {};
  // The file may be whole: it is the payload that ends early.
  Error error = packed.error().within(fmt::format("packed token payload at offset {}", start));
  if (error.kind == ErrorKind::kTruncated) error.kind = ErrorKind::kCorrupt;
  return error;
}

Status read_session_payload(StateReader& reader, LlamaState& state) {
  KVPACK_ASSIGN_OR_RETURN(const uint32_t tokens, reader.read<uint32_t>("token count"));
  KVPACK_ASSIGN_OR_RETURN(state.payload, reader.take(uint64_t{tokens} * 4, "tokens"));
  state.tokens = words_of(state.payload);
  KVPACK_ASSIGN_OR_RETURN(const uint32_t length, reader.read<uint32_t>("architecture length"));
  if (length > 256) {
    return corrupt(
        fmt::format("architecture name at offset {}: {} bytes long, at most 256 make sense", reader.offset(), length));
  }
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan name, reader.take(length, "architecture"));
  state.architecture = as_text(name);
  return {};
}

// The cell table of one stream. Positions, counts and ids are checked, since that is what tells readings apart.
Result<ByteSpan> read_cells(StateReader& reader, ByteReader table, uint32_t cells, bool ext, bool session) {
  const uint64_t start = table.offset();
  for (uint32_t cell = 0; cell < cells; ++cell) {
    const uint64_t at = reader.offset() + table.offset() - start;
    KVPACK_ASSIGN_OR_RETURN(const int32_t position, table.read<int32_t>("cell position"));
    if (position < 0 || position >= 1 << 28) {
      return corrupt(fmt::format("cell {} at offset {}: position {}, expected 0 to 2^28", cell, at, position));
    }
    KVPACK_ASSIGN_OR_RETURN(const uint32_t sequences, table.read<uint32_t>("cell sequence count"));
    if (sequences < 1 || sequences > (session ? kMaxLlamaStreams : 1)) {
      return corrupt(fmt::format("cell {} at offset {}: {} sequence ids, expected {}", cell, at, sequences,
                                 session ? "1 to 256" : "1"));
    }
    if (ext) KVPACK_RETURN_IF_ERROR(table.take(12, "cell position words"));
    for (uint32_t i = 0; i < sequences; ++i) {
      KVPACK_ASSIGN_OR_RETURN(const int32_t id, table.read<int32_t>("sequence id"));
      if (id < 0 || id >= static_cast<int32_t>(kMaxLlamaStreams)) {
        return corrupt(fmt::format("cell {} at offset {}: sequence id {}, expected 0 to 255", cell, at, id));
      }
    }
  }
  return reader.take(table.offset() - start, "cells");
}

Result<DType> read_type(StateReader& reader, std::string_view what) {
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const int32_t type, reader.read<int32_t>(what));
  if (!dtype_is_known(type)) return corrupt(fmt::format("{} at offset {}: unknown ggml type {}", what, at, type));
  return static_cast<DType>(type);
}

Result<LlamaPlane> read_rows(StateReader& reader, uint32_t cells, std::string_view what) {
  LlamaPlane plane;
  KVPACK_ASSIGN_OR_RETURN(plane.dtype, read_type(reader, what));
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(plane.row_bytes, reader.read<uint64_t>(what));
  const uint32_t block_bytes = dtype_block_bytes(plane.dtype);
  if (plane.row_bytes == 0 || plane.row_bytes >= kMaxLlamaRowBytes || plane.row_bytes % block_bytes != 0) {
    return corrupt(fmt::format("{} at offset {}: rows of {} bytes, expected a multiple of {} below 2^24", what, at,
                               plane.row_bytes, block_bytes));
  }
  plane.row_values = static_cast<uint32_t>(plane.row_bytes / block_bytes * dtype_block_values(plane.dtype));
  plane.bytes = plane.row_bytes * cells;  // below 2^48
  KVPACK_ASSIGN_OR_RETURN(plane.offset, reader.skip_values(plane.bytes, what));
  return plane;
}

Result<LlamaPlane> read_columns(StateReader& reader, uint32_t cells, std::string_view what) {
  LlamaPlane plane;
  plane.transposed = true;
  KVPACK_ASSIGN_OR_RETURN(plane.dtype, read_type(reader, what));
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t element_bytes, reader.read<uint32_t>(what));
  KVPACK_ASSIGN_OR_RETURN(plane.row_values, reader.read<uint32_t>(what));
  if (dtype_is_quantized(plane.dtype)) {
    return unsupported(fmt::format("{} at offset {}: transposed values of type {}, which llama.cpp does not write",
                                   what, at, dtype_name(plane.dtype)));
  }
  if (element_bytes != dtype_block_bytes(plane.dtype)) {
    return corrupt(fmt::format("{} at offset {}: {} bytes per {} value, expected {}", what, at, element_bytes,
                               dtype_name(plane.dtype), dtype_block_bytes(plane.dtype)));
  }
  plane.row_bytes = uint64_t{plane.row_values} * element_bytes;
  if (plane.row_bytes == 0 || plane.row_bytes >= kMaxLlamaRowBytes) {
    return corrupt(fmt::format("{} at offset {}: {} values per cell, expected 1 to 2^24 bytes of them", what, at,
                               plane.row_values));
  }
  plane.bytes = plane.row_bytes * cells;
  KVPACK_ASSIGN_OR_RETURN(plane.offset, reader.skip_values(plane.bytes, what));
  return plane;
}

Result<LlamaStream> read_stream(StateReader& reader, const LlamaBlockShape& shape, bool session, WorkBudget& budget) {
  LlamaStream stream;
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(stream.cells, reader.read<uint32_t>("cell count"));
  if (stream.cells == 0) return stream;
  const uint64_t needed = uint64_t{stream.cells} * (shape.ext ? 24 : 12);
  if (stream.cells > kMaxLlamaCells || needed > reader.remaining()) {
    return truncated(
        fmt::format("{} cells at offset {} need {} bytes, {} are left", stream.cells, at, needed, reader.remaining()));
  }
  KVPACK_RETURN_IF_ERROR(budget.spend(stream.cells));
  KVPACK_ASSIGN_OR_RETURN(stream.cell_bytes,
                          read_cells(reader, reader.bytes_ahead(), stream.cells, shape.ext, session));
  const uint64_t flags_at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t transposed, reader.read<uint32_t>("v_trans"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t layers, reader.read<uint32_t>("layer count"));
  if (transposed > 1 || layers > kMaxLayers) {
    return corrupt(fmt::format("offset {}: v_trans {} and {} layers, expected 0 or 1 and at most {}", flags_at,
                               transposed, layers, kMaxLayers));
  }
  stream.transposed_v = transposed == 1;
  KVPACK_RETURN_IF_ERROR(budget.spend(2 * layers + 1));
  for (uint32_t layer = 0; layer < layers; ++layer) {
    KVPACK_ASSIGN_OR_RETURN(LlamaPlane plane, read_rows(reader, stream.cells, fmt::format("K of layer {}", layer)));
    stream.keys.push_back(plane);
  }
  for (uint32_t layer = 0; shape.has_v && layer < layers; ++layer) {
    const std::string what = fmt::format("V of layer {}", layer);
    auto plane = stream.transposed_v ? read_columns(reader, stream.cells, what) : read_rows(reader, stream.cells, what);
    if (!plane.ok()) return plane.error();
    stream.values.push_back(*plane);
  }
  return stream;
}

Result<LlamaBlock> read_kv_block(StateReader& reader, const LlamaBlockShape& shape, bool session, WorkBudget& budget) {
  LlamaBlock block;
  block.shape = shape;
  block.offset = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t streams, reader.read<uint32_t>("stream count"));
  if (streams < 1 || streams > kMaxLlamaStreams) {
    return corrupt(
        fmt::format("KV block at offset {}: {} streams, expected 1 to {}", block.offset, streams, kMaxLlamaStreams));
  }
  KVPACK_RETURN_IF_ERROR(budget.spend(streams));
  for (uint32_t i = 0; i < streams; ++i) {
    KVPACK_ASSIGN_OR_RETURN(LlamaStream stream, read_stream(reader, shape, session, budget));
    block.streams.push_back(std::move(stream));
  }
  return block;
}

}  // namespace

bool looks_like_llama_state(ByteSpan bytes) {
  if (bytes.size() < 4) return false;
  const auto magic = static_cast<uint32_t>(word_at(bytes, 0));
  return magic == kLlamaSequenceMagic || magic == kLlamaSessionMagic;
}

bool LlamaState::has_opaque_state() const {
  for (const LlamaBlock& block : blocks) {
    if (block.shape.kind != LlamaBlockKind::kKv) return true;
  }
  return false;
}

std::vector<LlamaBlockShape> LlamaState::shapes() const {
  std::vector<LlamaBlockShape> shapes;
  for (const LlamaBlock& block : blocks) shapes.push_back(block.shape);
  return shapes;
}

Result<uint64_t> StateReader::skip_values(uint64_t count, std::string_view what) {
  const uint64_t at = offset();
  uint64_t end = 0;
  if (!checked_add(at, count, &end) || end > max_bytes_) {
    return limit_exceeded(fmt::format("{} at offset {}: {} bytes, more than the limit of {} for a whole file", what, at,
                                      count, max_bytes_));
  }
  if (mode_ == Mode::kSkeleton) {
    skipped_ += count;
    return at;
  }
  KVPACK_RETURN_IF_ERROR(reader_.take(count, what));
  return at;
}

Status WorkBudget::spend(uint64_t units) {
  if (units > left_) {
    exhausted_ = true;
    return limit_exceeded("the file can be read in too many ways: its memory module cannot be told in bounded time");
  }
  left_ -= units;
  return {};
}

Result<LlamaState> read_llama_head(StateReader& reader) {
  LlamaState state;
  KVPACK_ASSIGN_OR_RETURN(const uint32_t magic, reader.read<uint32_t>("magic"));
  if (magic != kLlamaSequenceMagic && magic != kLlamaSessionMagic) {
    return unsupported(fmt::format("not a llama.cpp state file: magic {:#010x} at offset 0", magic));
  }
  state.session = magic == kLlamaSessionMagic;
  KVPACK_ASSIGN_OR_RETURN(const uint32_t version, reader.read<uint32_t>("version"));
  const uint32_t known = state.session ? kLlamaSessionVersion : kLlamaSequenceVersion;
  if (version != known) {
    return unsupported(fmt::format("llama.cpp {} file of version {} (offset 4), known is {}",
                                   state.session ? "session" : "sequence", version, known));
  }
  KVPACK_RETURN_IF_ERROR(state.session ? read_session_payload(reader, state) : read_sequence_payload(reader, state));
  return state;
}

Result<LlamaBlock> read_llama_block(StateReader& reader, const LlamaBlockShape& shape, bool session,
                                    std::span<const LlamaBlock> before, WorkBudget& budget) {
  switch (shape.kind) {
    case LlamaBlockKind::kKv:
      return read_kv_block(reader, shape, session, budget);
    case LlamaBlockKind::kRecurrent:
      return read_llama_recurrent_block(reader, shape, session, budget);
    case LlamaBlockKind::kDsv4Head:
      return read_dsv4_head(reader);
    case LlamaBlockKind::kDsv4Tail:
      if (before.empty() || before[0].shape.kind != LlamaBlockKind::kDsv4Head) {
        return corrupt("DSV4 states without the module's head");
      }
      return read_dsv4_tail(reader, before[0].opaque, budget);
  }
  return corrupt("unknown kind of memory block");
}

std::vector<LlamaCell> llama_cells(const LlamaStream& stream, bool ext) {
  std::vector<LlamaCell> cells(stream.cells);
  uint64_t at = 0;
  for (LlamaCell& cell : cells) {
    cell.position = word_at(stream.cell_bytes, at);
    const auto sequences = static_cast<uint32_t>(word_at(stream.cell_bytes, at + 4));
    const uint64_t record_bytes = 8 + (ext ? 12 : 0) + uint64_t{sequences} * 4;
    cell.record = stream.cell_bytes.subspan(at, record_bytes);
    at += record_bytes;
  }
  return cells;
}

}  // namespace kvpack
