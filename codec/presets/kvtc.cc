// SPDX-License-Identifier: Apache-2.0
// KVTC (Staniszewski and Lancucki, ICLR 2026, arXiv 2511.01815): keys before RoPE, mean removed, principal components,
// bits chosen for groups of components by dynamic programming on the squared error of all keys, and of all values,
// every token's group scaled from its minimum to its maximum or rounded to 8-bit floats, the packed bits through a
// general compressor; the first 4 tokens and the last 128 exact. "kvtc-16": the bits are chosen for a sixteenth of f16
// before the compressor, as in the paper.
//
// The paper's components are those of calibration texts, all layers and heads joined. Here they are the context's own,
// across the heads of a layer, and cost nothing, which favours the recipe within a layer; what layers have in common is
// not used. As in the paper, components of all layers are sorted by falling variance before they are grouped. The
// compressor is zstd at level 9 instead of DEFLATE.
//
// Bytes: what zstd makes of scales (two f16 a token and group) and of symbols, exact tokens in f16, 4 bytes a group,
// the channels' means in f16.
#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <map>

#include "codec/parallel.h"
#include "codec/presets/group_quantizer.h"
#include "codec/presets/kvtc_groups.h"
#include "codec/presets/preset_planes.h"

namespace kvpack {
namespace {

constexpr uint32_t kExactFirst = 4;
constexpr uint32_t kExactLast = 128;

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// One plane's own components, and where they went.
struct PlanePart {
  size_t plane = 0;
  Matrix basis;                 // [channel][component], by falling variance
  Eigen::RowVectorXf mean;      // [channel]
  Matrix values;                // [token][component]
  std::vector<uint32_t> place;  // [component] column among all planes'
};

uint32_t coded_tokens(const KvView& view) {
  return view.tokens > kExactFirst + kExactLast ? view.tokens - kExactFirst - kExactLast : 0;
}

PlanePart analyse(const PresetPlane& plane, size_t index) {
  PlanePart part;
  part.plane = index;
  const Eigen::Map<const Matrix> rows(plane.rows.data() + size_t{kExactFirst} * plane.channels(),
                                      coded_tokens(plane.plane->view), plane.channels());
  part.mean = rows.colwise().mean().unaryExpr([](float x) { return round_to_f16(x); });
  const Matrix centred = rows.rowwise() - part.mean;
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver((centred.transpose() * centred).cast<double>());
  part.basis = solver.eigenvectors().rowwise().reverse().cast<float>();
  part.values = centred * part.basis;
  return part;
}

// Gathers the parts' components, by falling variance.
KvtcComponents join(std::vector<PlanePart>& parts) {
  struct Column {
    size_t part;
    uint32_t component;
    float deviation;
  };
  std::vector<Column> columns;
  for (size_t p = 0; p < parts.size(); ++p) {
    const Matrix& values = parts[p].values;
    for (Eigen::Index k = 0; k < values.cols(); ++k) {
      const float mean_square = values.col(k).squaredNorm() / static_cast<float>(values.rows());
      columns.push_back({p, static_cast<uint32_t>(k), std::sqrt(mean_square)});
    }
    parts[p].place.resize(static_cast<size_t>(values.cols()));
  }
  std::stable_sort(columns.begin(), columns.end(),
                   [](const Column& a, const Column& b) { return a.deviation > b.deviation; });
  KvtcComponents all;
  all.values.resize(parts.front().values.rows(), static_cast<Eigen::Index>(columns.size()));
  for (size_t c = 0; c < columns.size(); ++c) {
    PlanePart& part = parts[columns[c].part];
    part.place[columns[c].component] = static_cast<uint32_t>(c);
    all.values.col(static_cast<Eigen::Index>(c)) = part.values.col(columns[c].component);
    all.deviation.push_back(columns[c].deviation);
  }
  for (PlanePart& part : parts) part.values.resize(0, 0);
  return all;
}

void store_part(const PresetInput& input, const KvtcComponents& all, const PlanePart& part, PresetResult& result) {
  PresetPlane plane = load_plane(input, part.plane, true);
  Matrix values(all.values.rows(), static_cast<Eigen::Index>(part.place.size()));
  for (size_t k = 0; k < part.place.size(); ++k) {
    values.col(static_cast<Eigen::Index>(k)) = all.values.col(part.place[k]);
  }
  Eigen::Map<Matrix> rows(plane.rows.data() + size_t{kExactFirst} * plane.channels(), values.rows(), plane.channels());
  rows = (values * part.basis.transpose()).rowwise() + part.mean;
  store_plane(plane, part.plane, result);
}

// One side's planes, all of the same number of tokens; bytes.
uint64_t code_side(const PresetInput& input, const std::vector<size_t>& planes, double ratio, PresetResult& result) {
  std::vector<PlanePart> parts(planes.size());
  parallel_for(planes.size(), input.threads,
               [&](uint64_t i) { parts[i] = analyse(load_plane(input, planes[i], true), planes[i]); });
  KvtcComponents all = join(parts);
  const double budget_bits = 16 * static_cast<double>(all.values.cols()) / ratio;
  uint64_t bytes = code_kvtc_groups(all, choose_kvtc_groups(all, budget_bits, input.threads), input.threads);
  parallel_for(planes.size(), input.threads, [&](uint64_t i) { store_part(input, all, parts[i], result); });
  for (const PlanePart& part : parts) {
    bytes += uint64_t{2} * static_cast<uint64_t>(part.mean.size()) * (1 + kExactFirst + kExactLast);
  }
  return bytes;
}

Result<PresetResult> run(const PresetInput& input, double ratio) {
  PresetResult result = empty_result(input.file.tensor);
  // Keys and values have a budget each: what an error of one matters beside the other's, its square does not tell.
  std::map<std::pair<Side, uint32_t>, std::vector<size_t>> sides;  // by side and tokens
  for (size_t p = 0; p < result.tensor.planes.size(); ++p) {
    const KvPlane& plane = input.file.tensor.planes[p];
    if (coded_tokens(plane.view) > 0) {
      sides[{plane.side, plane.view.tokens}].push_back(p);
      continue;
    }
    store_plane(load_plane(input, p, true), p, result);
    result.bytes += uint64_t{2} * plane.view.tokens * plane.view.channels();
  }
  for (const auto& [key, planes] : sides) result.bytes += code_side(input, planes, ratio, result);
  return result;
}

}  // namespace

void add_kvtc(std::vector<Preset>& all) {
  for (const int ratio : {3, 4, 6, 8, 16}) {
    all.push_back({"kvtc-" + std::to_string(ratio), "kvtc",
                   "principal components (free), bits for a " + std::to_string(ratio) + "th of f16, zstd",
                   [ratio](const PresetInput& input) { return run(input, ratio); }});
  }
}

}  // namespace kvpack
