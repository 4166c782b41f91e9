// SPDX-License-Identifier: Apache-2.0
// llama.cpp's state files: sequence files (`ggsq`, version 3) and session files (`ggsn`, version 10), parsed down to
// where every byte belongs. Only kv_file.h is for callers outside this folder.
//
//   sequence: magic u32 | version u32 | n_words u32 | payload i32[n_words] | memory module | trailing bytes
//   session:  magic u32 | version u32 | n_tokens u32 | tokens i32[n_tokens] | n u32, architecture | memory module
//
// A memory module is a list of blocks that the file neither counts nor names:
//
//   KV block   n_stream u32; per stream: cell_count u32 and, unless that is 0,
//                per cell: pos i32, n_seq_id u32, [ext 3 x i32], seq_id i32[n_seq_id]
//                v_trans u32, n_layer u32
//                per layer K: type i32, row_bytes u64, rows [cell][kv_head][head_dim]
//                per layer V (absent in K-only blocks): the same, or if v_trans:
//                             type i32, element_bytes u32, row_values u32, columns [kv_head][head_dim][cell]
//   R block    cell_count u32; per cell: pos i32, n_seq_id u32, seq_id[]; s_trans u32 = 0, n_layer u32;
//                per recurrent layer R: type i32, row_bytes u64, rows, [PLE: row_bytes u64, rows]; then S likewise
//   DSV4       "DSV4", version u32, mode u32; KV block, KV block (K only); compressed K and states
//
// What a block is (ext words or not, V or not, how many recurrent layers) is a BlockShape: found by search when a file
// is read, recorded in the container so that no search is needed to rebuild it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/bytes.h"
#include "formats/kv_file.h"
#include "formats/kv_tensor.h"
#include "formats/model_facts.h"
#include "formats/result.h"

namespace kvpack {

inline constexpr uint32_t kLlamaSequenceMagic = 0x67677371;
inline constexpr uint32_t kLlamaSequenceVersion = 3;
inline constexpr uint32_t kLlamaSessionMagic = 0x6767736e;
inline constexpr uint32_t kLlamaSessionVersion = 10;
inline constexpr uint32_t kMaxLlamaStreams = 256;     // LLAMA_MAX_SEQ
inline constexpr uint32_t kMaxLlamaCells = 1u << 24;  // per stream
inline constexpr uint32_t kMaxLlamaRowBytes = 1u << 24;
inline constexpr uint32_t kMaxLlamaBlocks = 4;

bool looks_like_llama_state(ByteSpan bytes);

enum class LlamaBlockKind : uint8_t { kKv = 0, kRecurrent = 1, kDsv4Head = 2, kDsv4Tail = 3 };

// What a block is, as far as its bytes do not say.
struct LlamaBlockShape {
  LlamaBlockKind kind = LlamaBlockKind::kKv;
  bool ext = false;               // KV: cells carry x, y, token (M-RoPE and PLE models)
  bool has_v = true;              // KV: false for MLA and for blocks without layers
  bool ple = false;               // R: a second row per layer
  uint32_t recurrent_layers = 0;  // R: layers that hold rows (the file states only the trunk's layer count)
  bool operator==(const LlamaBlockShape&) const = default;
};

// The stored values of one layer and side. `offset` counts from the start of the file.
struct LlamaPlane {
  DType dtype = DType::kF16;
  uint64_t row_bytes = 0;
  uint32_t row_values = 0;
  bool transposed = false;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct LlamaStream {
  uint32_t cells = 0;
  ByteSpan cell_bytes;  // the cell table
  bool transposed_v = false;
  std::vector<LlamaPlane> keys;    // [layer of the block]
  std::vector<LlamaPlane> values;  // as many, or none
};

struct LlamaBlock {
  LlamaBlockShape shape;
  uint64_t offset = 0;
  std::vector<LlamaStream> streams;  // KV
  ByteSpan opaque;                   // everything else: the block's bytes
};

struct LlamaState {
  bool session = false;
  bool packed_payload = false;
  uint32_t media = 0;           // media chunks in a packed payload
  std::vector<int32_t> tokens;  // as the payload lists them
  ByteSpan payload;             // its words as stored
  std::string architecture;     // session files only
  std::vector<LlamaBlock> blocks;
  ByteSpan trailing;
  uint64_t total_bytes = 0;

  bool has_opaque_state() const;
  std::vector<LlamaBlockShape> shapes() const;
};

struct LlamaCell {
  int32_t position = 0;
  ByteSpan record;  // the cell's bytes: pos, n_seq_id, [ext], seq_id[]
};
std::vector<LlamaCell> llama_cells(const LlamaStream& stream, bool ext);

// A cursor over a file, or over its skeleton: the same file with all plane data cut out. On a skeleton, skip_values
// passes over the cut without consuming bytes, so that offsets and sizes come out as those of the whole file.
class StateReader {
 public:
  enum class Mode { kWholeFile, kSkeleton };
  StateReader(ByteSpan bytes, Mode mode, uint64_t max_bytes = UINT64_MAX)
      : reader_(bytes), mode_(mode), max_bytes_(max_bytes) {}

  uint64_t offset() const { return reader_.offset() + skipped_; }  // in the whole file
  uint64_t consumed() const { return reader_.offset(); }
  bool at_end() const { return reader_.at_end(); }
  uint64_t remaining() const { return reader_.remaining(); }
  template <typename T>
  Result<T> read(std::string_view what) {
    return reader_.read<T>(what);
  }
  Result<ByteSpan> take(uint64_t count, std::string_view what) { return reader_.take(count, what); }
  // A copy of the cursor that reads ahead.
  ByteReader bytes_ahead() const { return reader_; }
  // Passes `count` bytes of plane data; the offset where they start.
  Result<uint64_t> skip_values(uint64_t count, std::string_view what);

 private:
  ByteReader reader_;
  Mode mode_;
  uint64_t max_bytes_;
  uint64_t skipped_ = 0;
};

// Bounds the work that a hostile file can cause: every cell and layer header read costs one unit.
class WorkBudget {
 public:
  explicit WorkBudget(uint64_t units) : left_(units) {}
  Status spend(uint64_t units);
  bool exhausted() const { return exhausted_; }

 private:
  uint64_t left_;
  bool exhausted_ = false;
};

// Everything before the memory module.
Result<LlamaState> read_llama_head(StateReader& reader);
// One block of a known shape. `before`: the blocks already read (DSV4's tail depends on its head).
Result<LlamaBlock> read_llama_block(StateReader& reader, const LlamaBlockShape& shape, bool session,
                                    std::span<const LlamaBlock> before, WorkBudget& budget);
Result<LlamaBlock> read_llama_recurrent_block(StateReader& reader, const LlamaBlockShape& shape, bool session,
                                              WorkBudget& budget);
Result<LlamaBlock> read_dsv4_head(StateReader& reader);
Result<LlamaBlock> read_dsv4_tail(StateReader& reader, ByteSpan head, WorkBudget& budget);

// All readings of a whole file that reach its end, most plausible first; never empty on success. Sequence files with
// bytes after the module: the unified or sliding-window reading, if the rest does not look like a cut-off block.
Result<std::vector<LlamaState>> search_llama_readings(ByteSpan bytes);
// The one reading that has these shapes.
Result<LlamaState> read_llama_state_as(StateReader reader, std::span<const LlamaBlockShape> shapes);

// The memory module's name by its blocks, "" if there is none. `architecture` settles MSA against iSWA and DSA against
// K-only iSWA; with an empty one, `certain` (optional) says whether the blocks alone were enough.
std::string llama_module_name(const LlamaState& state, std::string_view architecture, bool* certain = nullptr);

// What the layers of a KV block are.
enum class LlamaBlockRole : uint8_t { kAll, kFull, kSliding, kOther };
// [KV block]: roles in a module of that name.
std::vector<LlamaBlockRole> llama_block_roles(std::string_view module);

// One plane with its place in the file and in the model.
struct LlamaPlaneSpec {
  uint32_t token_set = 0;
  Side side = Side::kKey;
  uint32_t layer = 0;
  uint32_t layer_of_block = 0;
  int32_t rope = -1;
  uint32_t kv_heads = 1;
  uint32_t head_dim = 0;
  uint32_t hadamard_block = 0;
  uint32_t cells = 0;
  LlamaPlane stored;
};

struct LlamaTokenSetOrigin {
  uint32_t block = 0;     // index into LlamaState::blocks
  uint32_t kv_block = 0;  // counting KV blocks only
  uint32_t stream = 0;
};

// All planes of a state in KvTensor's order, one head as wide as the row, layers numbered as they come.
struct LlamaPlanes {
  std::vector<TokenSet> token_sets;
  std::vector<LlamaTokenSetOrigin> origins;  // [token set]
  std::vector<LlamaPlaneSpec> planes;
};
LlamaPlanes list_llama_planes(const LlamaState& state);
// Heads, layer indices and RoPE of a model; invalid_argument if file and model do not fit.
Status apply_model_facts(LlamaPlanes& planes, const LlamaState& state, const ModelFacts& facts);
// Sets hadamard_block of quantized planes.
void assume_rotation(LlamaPlanes& planes, bool heads_known);
// The block in which llama.cpp rotates heads of a quantized cache; 0: not at all.
uint32_t llama_hadamard_block(Side side, uint32_t head_dim);

// `data`: the plane's, or null.
template <typename Byte>
BasicKvView<Byte> llama_plane_view(Byte* data, const LlamaPlaneSpec& spec, const TokenSet& token_set) {
  auto view = make_row_view(data, spec.stored.dtype, spec.cells, spec.kv_heads, spec.head_dim);
  if (spec.stored.transposed) {
    view.token_stride = dtype_block_bytes(spec.stored.dtype);
    view.channel_stride = view.token_stride * spec.cells;
    view.head_stride = view.channel_stride * spec.head_dim;
  }
  view.row_of_token = token_set.row_of_token.empty() ? nullptr : token_set.row_of_token.data();
  view.hadamard_block = spec.hadamard_block;
  return view;
}

// The container of a llama.cpp file, see llama_container.cc.
struct LlamaContainer {
  LlamaState state;  // spans into the container's bytes
  LlamaPlanes planes;
  bool heads_known = false;
  ByteSpan skeleton;
};
Bytes write_llama_container(ByteSpan file, const LlamaState& state, const LlamaPlanes& planes, bool heads_known);
Result<LlamaContainer> read_llama_container(ByteSpan container, uint64_t max_bytes);

Result<KvFile> read_llama_state(std::shared_ptr<const FileBytes> storage, const KvReadOptions& options);
Result<KvFileLayout> read_llama_layout(ByteSpan container);

}  // namespace kvpack
