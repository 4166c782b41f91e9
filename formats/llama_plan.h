// SPDX-License-Identifier: Apache-2.0
// What a llama.cpp state file to be written will hold, decided and checked before its first byte is made.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "formats/llama_state.h"

namespace kvpack {

struct PlannedCell {
  int32_t position = 0;
  ByteSpan record;  // from the container; empty: made up
};

struct PlannedPlane {
  const KvPlane* from = nullptr;
  DType dtype = DType::kF16;
  uint32_t hadamard_block = 0;
};

struct PlannedStream {
  std::vector<PlannedCell> cells;      // in file order
  std::vector<uint32_t> row_of_token;  // [token of the token set] -> cell
  bool new_sequence_id = false;        // cells belong to the stream's number, whatever their records say
  bool transposed_v = false;
  std::vector<PlannedPlane> keys;
  std::vector<PlannedPlane> values;
};

struct PlannedBlock {
  LlamaBlockShape shape;
  uint32_t streams = 1;
  std::map<uint32_t, PlannedStream> filled;  // the other streams are empty
  ByteSpan opaque;                           // not a KV block: its bytes
};

struct LlamaPlan {
  bool session = false;
  std::string architecture;
  bool packed_payload = false;
  std::optional<ByteSpan> payload;  // taken over as it is; else made from tokens
  std::vector<int32_t> tokens;
  std::vector<PlannedBlock> blocks;
  ByteSpan trailing;
};

// `base`: the opened container, or null. Errors: invalid_argument, unsupported.
Result<LlamaPlan> plan_llama_state(const KvTensor& tensor, const std::vector<int32_t>& tokens,
                                   const LlamaContainer* base, const LlamaLayout& layout);

// Where write_llama_state puts the guard cell.
struct SwaGuard {
  uint32_t token_set = 0;
  int32_t position = 0;
};
std::optional<SwaGuard> find_swa_guard(const KvTensor& tensor, const LlamaContainer* base);

}  // namespace kvpack
