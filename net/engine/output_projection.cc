// SPDX-License-Identifier: Apache-2.0
#include "net/engine/output_projection.h"

#include <fmt/format.h>
#include <ggml.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstring>

#include "codec/parallel.h"

namespace kvpack::engine {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr uint64_t kMaxWeights = 1ull << 30;

// A tensor of the file as f32, [dims[1]][dims[0]].
Result<Matrix> read_matrix(ByteSource& source, const Gguf& gguf, const std::string& name) {
  const auto found = gguf.tensors.find(name);
  if (found == gguf.tensors.end()) return unsupported(fmt::format("{}: no tensor '{}'", source.name(), name));
  const GgufTensor& tensor = found->second;
  if (tensor.type >= GGML_TYPE_COUNT) {
    return unsupported(fmt::format("{}: tensor '{}' is of ggml type {}", source.name(), name, tensor.type));
  }
  const auto type = static_cast<ggml_type>(tensor.type);
  const uint64_t columns = tensor.dims.empty() ? 0 : tensor.dims[0];
  const int64_t block = ggml_blck_size(type);
  const auto* traits = ggml_get_type_traits(type);
  if (block <= 0 || (type != GGML_TYPE_F32 && traits->to_float == nullptr)) {
    return unsupported(fmt::format("{}: tensor '{}' is of ggml type {}", source.name(), name, tensor.type));
  }
  if (columns == 0 || tensor.values > kMaxWeights || columns % static_cast<uint64_t>(block) != 0) {
    return corrupt(
        fmt::format("{}: tensor '{}' has {} values in rows of {}", source.name(), name, tensor.values, columns));
  }
  const uint64_t rows = tensor.values / columns;
  const uint64_t row_bytes = ggml_row_size(type, static_cast<int64_t>(columns));
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, source.read(gguf.data_offset + tensor.offset, rows * row_bytes));
  Matrix values(static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns));
  if (type == GGML_TYPE_F32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
  } else {
    traits->to_float(bytes.data(), values.data(), static_cast<int64_t>(tensor.values));
  }
  return values;
}

// Architectures that normalise the attention's result before they add it to the stream. Others use a tensor of the
// same name for the norm after the addition.
bool norms_attention_result(std::string_view architecture) {
  constexpr std::string_view kNames[] = {"gemma2", "gemma3", "exaone4", "glm4", "olmo2", "afmoe", "plamo2", "plamo3"};
  return std::find(std::begin(kNames), std::end(kNames), architecture) != std::end(kNames);
}

}  // namespace

Result<OutputProjection> read_output_projection(ByteSource& source, const Gguf& gguf, uint32_t layer,
                                                uint32_t value_dim, unsigned threads) {
  const std::string name = fmt::format("blk.{}.attn_output.weight", layer);
  KVPACK_ASSIGN_OR_RETURN(Matrix weights, read_matrix(source, gguf, name));
  if (value_dim == 0 || weights.cols() % value_dim != 0) {
    return corrupt(fmt::format("{}: tensor '{}' has rows of {}, not a multiple of the heads' {}", source.name(), name,
                               weights.cols(), value_dim));
  }
  OutputProjection projection;
  projection.query_heads = static_cast<uint32_t>(weights.cols()) / value_dim;
  KVPACK_ASSIGN_OR_RETURN(const auto architecture, gguf.find_string("general.architecture"));
  const std::string norm_name = fmt::format("blk.{}.post_attention_norm.weight", layer);
  if (norms_attention_result(architecture.value_or("")) && gguf.tensors.contains(norm_name)) {
    KVPACK_ASSIGN_OR_RETURN(const Matrix norm, read_matrix(source, gguf, norm_name));
    if (norm.size() != weights.rows()) {
      return corrupt(fmt::format("{}: tensor '{}' has {} values for {} rows", source.name(), norm_name, norm.size(),
                                 weights.rows()));
    }
    weights = norm.reshaped().asDiagonal() * weights;
    projection.normed = true;
  }
  if (!weights.allFinite()) return corrupt(fmt::format("{}: tensor '{}' is not finite", source.name(), name));
  const size_t size = size_t{value_dim} * value_dim;
  projection.gram.resize(projection.query_heads * size);
  parallel_for(projection.query_heads, threads, [&](uint64_t head) {
    const auto part = weights.middleCols(static_cast<Eigen::Index>(head) * value_dim, value_dim);
    Eigen::Map<Matrix>(projection.gram.data() + head * size, value_dim, value_dim) = part.transpose() * part;
  });
  return projection;
}

}  // namespace kvpack::engine
