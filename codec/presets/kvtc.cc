// SPDX-License-Identifier: Apache-2.0
// KVTC (Staniszewski and Lancucki, arXiv 2511.01815, section 3): keys before RoPE, mean removed, principal components,
// bits chosen for groups of components by dynamic programming on the squared error of all keys, and of all values,
// every token's group scaled from its minimum to its maximum, the packed bits through a general compressor; the first 4
// tokens and the last 128 exact. "kvtc-16": the bits are chosen for a sixteenth of f16 before the compressor, as in the
// paper.
//
// With a profile, the components are those of its calibration texts, per head (the paper joins the heads of all
// layers), and are not counted. Without one the plane's own covariance gives them across its heads, and they are
// counted (f16). The compressor is zstd at level 9 instead of DEFLATE.
#include <zstd.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/parallel.h"
#include "codec/presets/group_quantizer.h"
#include "codec/presets/preset_planes.h"
#include "formats/half.h"

namespace kvpack {
namespace {

constexpr uint32_t kExactFirst = 4;
constexpr uint32_t kExactLast = 128;
constexpr uint32_t kSampleStride = 8;  // of tokens on which errors are measured
constexpr int kZstdLevel = 9;
constexpr uint32_t kGroupSizes[] = {1, 4, 16, 64, 256};
constexpr int kBitChoices[] = {1, 2, 4, 8};

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Choice {
  uint32_t size = 0;  // components
  int bits = 0;       // 0: dropped
};

// One plane in its components, and what every group would cost.
struct Components {
  Matrix basis;                     // [channel][component]
  Eigen::RowVectorXf mean;          // [channel]
  Matrix values;                    // [token][component], by falling variance
  std::vector<double> energy_from;  // [component + 1] squared values of this and all later ones, sampled
  // [start][choice]: sampled squared error
  std::vector<std::vector<std::pair<Choice, double>>> choices;
  uint32_t first = 0, count = 0;  // tokens that are coded
  uint64_t basis_bits = 0;
};

// Covariance of a profile's calibration texts: block diagonal, head by head.
Eigen::MatrixXd profile_covariance(const ProfilePlane& profile) {
  const uint32_t dim = profile.head_dim;
  Eigen::MatrixXd covariance = Eigen::MatrixXd::Zero(profile.kv_heads * dim, profile.kv_heads * dim);
  for (uint32_t head = 0; head < profile.kv_heads; ++head) {
    const HeadMatrix& basis = profile.basis[head];
    Eigen::MatrixXd rows(basis.components, dim);
    for (uint32_t k = 0; k < basis.components; ++k) {
      const double scale = double{basis.scale[k]} * double{profile.deviation[size_t{head} * dim + k]};
      for (uint32_t d = 0; d < dim; ++d) rows(k, d) = scale * basis.rows[size_t{k} * dim + d];
    }
    covariance.block(head * dim, head * dim, dim, dim) = rows.transpose() * rows;
  }
  return covariance;
}

const ProfilePlane* profile_of(const PresetInput& input, const PresetPlane& plane) {
  if (input.profile == nullptr) return nullptr;
  const ProfilePlane* profile = input.profile->plane(plane.plane->layer, plane.plane->side);
  const bool fits = profile != nullptr && profile->kv_heads == plane.heads() && profile->head_dim == plane.head_dim();
  return fits ? profile : nullptr;
}

Components analyse(const PresetInput& input, const PresetPlane& plane) {
  Components parts;
  const uint32_t channels = plane.channels();
  if (plane.tokens() <= kExactFirst + kExactLast) return parts;
  parts.first = kExactFirst;
  parts.count = plane.tokens() - kExactFirst - kExactLast;
  const Eigen::Map<const Matrix> rows(plane.rows.data() + size_t{parts.first} * channels, parts.count, channels);
  Eigen::MatrixXd covariance;
  if (const ProfilePlane* profile = profile_of(input, plane)) {
    covariance = profile_covariance(*profile);
    parts.mean = Eigen::Map<const Eigen::RowVectorXf>(profile->mean.data(), channels);
  } else {
    parts.mean = rows.colwise().mean();
    const Matrix centred = rows.rowwise() - parts.mean;
    covariance = (centred.transpose() * centred).cast<double>();
    parts.basis_bits = (uint64_t{channels} * channels + channels) * 16;
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(covariance);
  parts.basis = solver.eigenvectors().rowwise().reverse().cast<float>();
  parts.values = (rows.rowwise() - parts.mean) * parts.basis;
  return parts;
}

// Squared error of components [start, start + size) with so many bits, on the sample.
double group_error(const Matrix& values, uint32_t start, uint32_t size, int bits) {
  double error = 0;
  std::vector<float> group(size);
  for (Eigen::Index t = 0; t < values.rows(); t += kSampleStride) {
    const float* from = values.data() + t * values.cols() + start;
    std::copy(from, from + size, group.begin());
    quantize_group(group.data(), size, 1, bits);
    for (uint32_t i = 0; i < size; ++i) error += std::pow(static_cast<double>(group[i] - from[i]), 2);
  }
  return error;
}

void measure_choices(Components& parts) {
  const auto count = static_cast<uint32_t>(parts.values.cols());
  parts.energy_from.assign(count + 1, 0);
  for (uint32_t k = count; k-- > 0;) {
    double energy = 0;
    for (Eigen::Index t = 0; t < parts.values.rows(); t += kSampleStride)
      energy += std::pow(double{parts.values(t, k)}, 2);
    parts.energy_from[k] = parts.energy_from[k + 1] + energy;
  }
  parts.choices.resize(count);
  for (uint32_t start = 0; start < count; ++start) {
    for (const uint32_t size : kGroupSizes) {
      if (start % std::min(size, 16u) != 0 || start + size > count) continue;
      // A group of one needs no scale: its minimum is the value in f16.
      if (size == 1) {
        parts.choices[start].push_back({{1, 16}, 0.0});
        continue;
      }
      for (const int bits : kBitChoices)
        parts.choices[start].push_back({{size, bits}, group_error(parts.values, start, size, bits)});
    }
  }
}

uint64_t bits_of(const Choice& choice) {
  if (choice.size == 1) return 16;
  return uint64_t{choice.size} * static_cast<uint64_t>(choice.bits) + kGroupBits;
}

// The groups of least error + price x bits, per token; components after the last group are dropped.
std::vector<Choice> best_groups(const Components& parts, double price) {
  const size_t count = parts.choices.size();
  const double tokens = std::ceil(static_cast<double>(parts.count) / kSampleStride);
  std::vector<double> cost(count + 1);
  std::vector<Choice> from(count + 1);
  for (size_t start = count; start-- > 0;) {
    cost[start] = parts.energy_from[start];  // dropped from here on
    for (const auto& [choice, error] : parts.choices[start]) {
      const double candidate =
          error + price * tokens * static_cast<double>(bits_of(choice)) + cost[start + choice.size];
      if (candidate < cost[start]) {
        cost[start] = candidate;
        from[start] = choice;
      }
    }
  }
  std::vector<Choice> groups;
  for (size_t start = 0; start < count && from[start].size > 0; start += from[start].size)
    groups.push_back(from[start]);
  return groups;
}

double total_bits(const std::vector<const Components*>& all, double price) {
  double bits = 0;
  for (const Components* parts : all) {
    for (const Choice& choice : best_groups(*parts, price)) bits += static_cast<double>(bits_of(choice)) * parts->count;
  }
  return bits;
}

// One price for the whole cache, so that the budget is met.
double find_price(const std::vector<const Components*>& all, double budget_bits) {
  double low = 1e-12;
  double high = 1e12;
  for (int i = 0; i < 60; ++i) {
    const double middle = std::sqrt(low * high);
    (total_bits(all, middle) > budget_bits ? low : high) = middle;
  }
  return high;
}

class BitPacker {
 public:
  void put(uint32_t value, int bits) {
    for (int b = 0; b < bits; ++b, ++count_) {
      if (count_ % 8 == 0) bytes_.push_back(std::byte{0});
      if ((value >> b & 1u) != 0) bytes_.back() |= static_cast<std::byte>(1u << (count_ % 8));
    }
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
  uint64_t count_ = 0;
};

uint64_t zstd_bytes(const Bytes& bytes) {
  Bytes out(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), kZstdLevel);
  return ZSTD_isError(size) != 0 ? bytes.size() : std::min<uint64_t>(size, bytes.size());
}

// Quantizes and packs one group of all tokens; what its packed scales and symbols take.
uint64_t code_group(Matrix& values, uint32_t start, const Choice& choice) {
  BitPacker scales, symbols;
  for (Eigen::Index t = 0; t < values.rows(); ++t) {
    float* group = values.data() + t * values.cols() + start;
    if (choice.size == 1) {
      *group = round_to_f16(*group);
      scales.put(f32_to_f16(*group), 16);
      continue;
    }
    const GroupScale of_group = quantize_group(group, choice.size, 1, choice.bits);
    scales.put(f32_to_f16(of_group.minimum), 16);
    scales.put(f32_to_f16(of_group.scale), 16);
    for (uint32_t i = 0; i < choice.size; ++i) {
      const float q = of_group.scale > 0 ? (group[i] - of_group.minimum) / of_group.scale : 0.0f;
      symbols.put(static_cast<uint32_t>(std::lround(q)), choice.bits);
    }
  }
  return zstd_bytes(scales.bytes()) + zstd_bytes(symbols.bytes());
}

uint64_t code_plane(PresetPlane& plane, Components& parts, double price) {
  const uint32_t channels = plane.channels();
  uint64_t bytes = uint64_t{plane.tokens() - parts.count} * channels * 2;
  if (parts.count == 0) return bytes;
  uint32_t start = 0;
  for (const Choice& choice : best_groups(parts, price)) {
    bytes += code_group(parts.values, start, choice) + 2;  // its size and bits
    start += choice.size;
  }
  parts.values.rightCols(channels - start).setZero();
  Eigen::Map<Matrix> rows(plane.rows.data() + size_t{parts.first} * channels, parts.count, channels);
  rows = (parts.values * parts.basis.transpose()).rowwise() + parts.mean;
  return bytes + parts.basis_bits / 8;
}

Result<PresetResult> run(const PresetInput& input, double ratio) {
  PresetResult result = empty_result(input.file.tensor);
  const size_t planes = result.tensor.planes.size();
  std::vector<Components> all(planes);
  parallel_for(planes, input.threads, [&](uint64_t p) {
    all[p] = analyse(input, load_plane(input, p, true));
    measure_choices(all[p]);
  });
  // Keys and values have a budget each: what an error of one matters beside the other's, its square does not tell.
  double price[2] = {};
  for (const Side side : {Side::kKey, Side::kValue}) {
    std::vector<const Components*> of_side;
    double values = 0;
    for (size_t p = 0; p < planes; ++p) {
      if (input.file.tensor.planes[p].side != side) continue;
      of_side.push_back(&all[p]);
      values += static_cast<double>(all[p].values.size());
    }
    price[static_cast<size_t>(side)] = find_price(of_side, values * 16 / ratio);
  }
  std::vector<uint64_t> bytes(planes);
  parallel_for(planes, input.threads, [&](uint64_t p) {
    PresetPlane plane = load_plane(input, p, true);
    bytes[p] = code_plane(plane, all[p], price[plane.is_key() ? 0 : 1]);
    store_plane(plane, p, result);
  });
  result.bytes = std::accumulate(bytes.begin(), bytes.end(), uint64_t{0});
  return result;
}

}  // namespace

void add_kvtc(std::vector<Preset>& all) {
  for (const int ratio : {4, 8, 16}) {
    all.push_back({"kvtc-" + std::to_string(ratio), "kvtc",
                   "principal components, bits for a " + std::to_string(ratio) + "th of f16, zstd",
                   [ratio](const PresetInput& input) { return run(input, ratio); }});
  }
}

}  // namespace kvpack
