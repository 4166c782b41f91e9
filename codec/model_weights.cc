// SPDX-License-Identifier: Apache-2.0
#include "codec/model_weights.h"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "codec/matrix_product.h"
#include "codec/parallel.h"
#include "codec/row_values.h"

namespace kvpack {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr uint64_t kBlockRows = 64;
constexpr uint64_t kMaxVector = 1 << 20;
constexpr uint64_t kMaxMatrixValues = 1ull << 30;
constexpr uint64_t kMaxWidth = 1 << 20;

std::string tensor_name(uint32_t layer, std::string_view tensor, std::string_view part) {
  return fmt::format("blk.{}.{}.{}", layer, tensor, part);
}

}  // namespace

Result<ModelWeights> ModelWeights::open(ByteSource& source, unsigned threads) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes magic, source.read(0, std::min<uint64_t>(4, source.size())));
  if (!looks_like_gguf(magic)) return unsupported(fmt::format("{}: only a GGUF has weights", source.name()));
  KVPACK_ASSIGN_OR_RETURN(Gguf gguf, read_gguf(source));
  ModelWeights weights(source, std::move(gguf), threads);
  KVPACK_ASSIGN_OR_RETURN(const auto architecture, weights.gguf_.find_string("general.architecture"));
  weights.architecture_ = architecture.value_or("");
  KVPACK_ASSIGN_OR_RETURN(const auto epsilon, weights.find_number("attention.layer_norm_rms_epsilon"));
  if (!epsilon)
    return unsupported(fmt::format("{}: architecture '{}' has no RMS norm", source.name(), weights.architecture_));
  weights.norm_epsilon_ = static_cast<float>(*epsilon);
  return weights;
}

bool ModelWeights::has(uint32_t layer, std::string_view tensor) const {
  return gguf_.tensors.contains(tensor_name(layer, tensor, "weight"));
}

Result<Rows> ModelWeights::embed(std::span<const int32_t> tokens) const {
  KVPACK_ASSIGN_OR_RETURN(const GgufMatrix matrix, find_gguf_matrix(*source_, gguf_, "token_embd.weight"));
  if (matrix.columns > kMaxWidth) return limit_exceeded(fmt::format("token_embd: rows of {} values", matrix.columns));
  Rows rows;
  rows.width = static_cast<uint32_t>(matrix.columns);
  for (const int32_t token : tokens) {
    if (token < 0 || static_cast<uint64_t>(token) >= matrix.rows) {
      return invalid_argument(fmt::format("token {}: the model has {}", token, matrix.rows));
    }
    KVPACK_ASSIGN_OR_RETURN(const std::vector<float> row,
                            read_gguf_rows(*source_, matrix, static_cast<uint64_t>(token), 1));
    rows.values.insert(rows.values.end(), row.begin(), row.end());
  }
  return rows;
}

Result<std::vector<float>> ModelWeights::vector_of(uint32_t layer, std::string_view tensor) const {
  return read_gguf_f32(*source_, gguf_, tensor_name(layer, tensor, "weight"), kMaxVector);
}

Result<Rows> ModelWeights::matrix_of(uint32_t layer, std::string_view tensor) const {
  const std::string name = tensor_name(layer, tensor, "weight");
  KVPACK_ASSIGN_OR_RETURN(const GgufMatrix matrix, find_gguf_matrix(*source_, gguf_, name));
  if (matrix.columns > kMaxWidth || matrix.rows > kMaxMatrixValues / matrix.columns) {
    return limit_exceeded(fmt::format("{}: {} rows of {} values", name, matrix.rows, matrix.columns));
  }
  Rows rows;
  rows.width = static_cast<uint32_t>(matrix.columns);
  KVPACK_ASSIGN_OR_RETURN(rows.values, read_gguf_rows(*source_, matrix, 0, matrix.rows));
  if (!all_finite(rows.values.data(), rows.values.size())) return corrupt(fmt::format("{}: tensor '{}' is not finite", source_->name(), name));
  return rows;
}

Result<Rows> ModelWeights::project(uint32_t layer, std::string_view tensor, const Rows& rows) const {
  const std::string name = tensor_name(layer, tensor, "weight");
  KVPACK_ASSIGN_OR_RETURN(const GgufMatrix matrix, find_gguf_matrix(*source_, gguf_, name));
  if (matrix.columns != rows.width || matrix.rows > kMaxWidth) {
    return unsupported(
        fmt::format("{}: {} rows of {} values for inputs of {}", name, matrix.rows, matrix.columns, rows.width));
  }
  KVPACK_ASSIGN_OR_RETURN(const std::vector<float> bias,
                          read_gguf_f32(*source_, gguf_, tensor_name(layer, tensor, "bias"), kMaxVector));
  if (!bias.empty() && bias.size() != matrix.rows)
    return corrupt(fmt::format("{}: a bias of {} values", name, bias.size()));
  Rows out;
  out.width = static_cast<uint32_t>(matrix.rows);
  out.values.resize(rows.count() * matrix.rows);
  const auto count = static_cast<Eigen::Index>(rows.count());
  Eigen::Map<Matrix> output(out.values.data(), count, out.width);
  const uint64_t blocks = (matrix.rows + kBlockRows - 1) / kBlockRows;
  std::vector<Status> statuses(blocks);
  parallel_for(blocks, threads_, [&](uint64_t block) {
    const uint64_t first = block * kBlockRows;
    const uint64_t these = std::min(kBlockRows, matrix.rows - first);
    const auto weights = read_gguf_rows(*source_, matrix, first, these);
    if (!weights.ok()) {
      statuses[block] = weights.error();
      return;
    }
    matrix_product(rows.values.data(), rows.count(), weights->data(), these, rows.width, out.values.data() + first,
                   out.width);
  });
  for (Status& status : statuses) KVPACK_RETURN_IF_ERROR(std::move(status));
  if (!bias.empty()) output.rowwise() += Eigen::Map<const Eigen::RowVectorXf>(bias.data(), out.width);
  if (!all_finite(out.values.data(), out.values.size())) return corrupt(fmt::format("{}: what '{}' gives is not finite", source_->name(), name));
  return out;
}

}  // namespace kvpack
