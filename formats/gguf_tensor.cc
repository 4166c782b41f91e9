// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf_tensor.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "formats/bytes.h"
#include "formats/ggml_blocks.h"
#include "formats/half.h"
#include "formats/k_quants.h"

namespace kvpack {
namespace {

// How a row is stored.
struct WeightType {
  uint32_t block_values = 0;
  uint32_t block_bytes = 0;
  void (*widen)(const std::byte* blocks, size_t values, float* out) = nullptr;  // K-quants only
};

// Types that a cache can have, too, keep their meaning there; K-quants are for weights alone.
std::optional<WeightType> weight_type(uint32_t ggml_type) {
  switch (ggml_type) {
    case 10:
      return WeightType{kKQuantValues, kQ2KBytes, widen_q2_k};
    case 11:
      return WeightType{kKQuantValues, kQ3KBytes, widen_q3_k};
    case 12:
      return WeightType{kKQuantValues, kQ4KBytes, widen_q4_k};
    case 13:
      return WeightType{kKQuantValues, kQ5KBytes, widen_q5_k};
    case 14:
      return WeightType{kKQuantValues, kQ6KBytes, widen_q6_k};
    default:
      break;
  }
  if (ggml_type > INT32_MAX || !dtype_is_known(static_cast<int32_t>(ggml_type))) return std::nullopt;
  const auto dtype = static_cast<DType>(ggml_type);
  return WeightType{dtype_block_values(dtype), dtype_block_bytes(dtype)};
}

void widen_row(uint32_t ggml_type, const std::byte* row, size_t values, float* out) {
  const std::optional<WeightType> type = weight_type(ggml_type);
  if (type->widen != nullptr) return type->widen(row, values, out);
  const auto dtype = static_cast<DType>(ggml_type);
  if (dtype == DType::kF32) {
    std::memcpy(out, row, values * sizeof(float));
  } else if (dtype_is_quantized(dtype)) {
    dequantize_blocks(dtype, row, static_cast<uint32_t>(values), out);
  } else {
    for (size_t i = 0; i < values; ++i) {
      uint16_t half;
      std::memcpy(&half, row + i * sizeof half, sizeof half);
      out[i] = dtype == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
    }
  }
}

}  // namespace

Result<GgufMatrix> find_gguf_matrix(const ByteSource& source, const Gguf& gguf, std::string_view name) {
  const auto found = gguf.tensors.find(name);
  if (found == gguf.tensors.end()) return unsupported(fmt::format("{}: no tensor '{}'", source.name(), name));
  const GgufTensor& tensor = found->second;
  const std::optional<WeightType> type = weight_type(tensor.type);
  if (!type) {
    return unsupported(fmt::format("{}: tensor '{}' is of ggml type {}", source.name(), name, tensor.type));
  }
  if (tensor.dims.empty() || tensor.dims.size() > 2) {
    return unsupported(fmt::format("{}: tensor '{}' has {} dimensions", source.name(), name, tensor.dims.size()));
  }
  GgufMatrix matrix;
  matrix.columns = tensor.dims[0];
  matrix.type = tensor.type;
  if (matrix.columns == 0 || matrix.columns % type->block_values != 0) {
    return corrupt(fmt::format("{}: tensor '{}' has rows of {} values in blocks of {}", source.name(), name,
                               matrix.columns, type->block_values));
  }
  matrix.rows = tensor.values / matrix.columns;
  matrix.row_bytes = matrix.columns / type->block_values * type->block_bytes;
  matrix.offset = gguf.data_offset + tensor.offset;  // read_gguf has seen that it lies in the file
  const uint64_t left = source.size() - matrix.offset;
  if (matrix.rows > left / matrix.row_bytes) {
    return truncated(fmt::format("{}: tensor '{}' has {} rows of {} bytes at offset {}, the file ends at {}",
                                 source.name(), name, matrix.rows, matrix.row_bytes, matrix.offset, source.size()));
  }
  return matrix;
}

Result<std::vector<float>> read_gguf_rows(ByteSource& source, const GgufMatrix& matrix, uint64_t first,
                                          uint64_t count) {
  if (first > matrix.rows || count > matrix.rows - first) {
    return invalid_argument(fmt::format("rows {} to {} of {}", first, first + count, matrix.rows));
  }
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes,
                          source.read(matrix.offset + first * matrix.row_bytes, count * matrix.row_bytes));
  std::vector<float> values(count * matrix.columns);
  for (uint64_t row = 0; row < count; ++row) {
    widen_row(matrix.type, bytes.data() + row * matrix.row_bytes, matrix.columns, values.data() + row * matrix.columns);
  }
  return values;
}

}  // namespace kvpack
