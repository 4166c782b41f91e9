// SPDX-License-Identifier: Apache-2.0
// MiniCache (Liu et al., NeurIPS 2024, arXiv 2405.14366): from the middle of the model on, every
// two layers share one direction per token, between theirs on the sphere (t = 0.6), and keep their own lengths; the
// 5 % of tokens whose directions differ most stay as they are. The rest as in KIVI with 4 bits, as in the paper's
// best setting, for the shared directions and for the layers before the middle.
//
// Bytes: KIVI's, two f16 a shared token, an exact token of both layers in f16 with a 32-bit index.
#include <algorithm>
#include <cmath>
#include <map>

#include "codec/parallel.h"
#include "codec/presets/group_quantizer.h"
#include "codec/presets/kivi.h"

namespace kvpack {
namespace {

constexpr double kBetween = 0.6;
constexpr double kExactShare = 0.05;
constexpr int kBits = 4;

double dot(const float* a, const float* b, uint32_t count) {
  double sum = 0;
  for (uint32_t i = 0; i < count; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

// Per token of two planes: lengths, cosine of the angle.
struct Pairing {
  std::vector<double> length_a, length_b, cosine;
  std::vector<bool> exact;
};

Pairing pair_tokens(const PresetPlane& a, const PresetPlane& b) {
  Pairing pairing;
  const uint32_t channels = a.channels();
  std::vector<uint32_t> order;
  for (uint32_t t = 0; t < a.tokens(); ++t) {
    const float* x = &a.rows[size_t{t} * channels];
    const float* y = &b.rows[size_t{t} * channels];
    pairing.length_a.push_back(std::sqrt(dot(x, x, channels)));
    pairing.length_b.push_back(std::sqrt(dot(y, y, channels)));
    const double lengths = pairing.length_a.back() * pairing.length_b.back();
    pairing.cosine.push_back(lengths > 0 ? std::clamp(dot(x, y, channels) / lengths, -1.0, 1.0) : -1.0);
    order.push_back(t);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t i, uint32_t j) { return pairing.cosine[i] < pairing.cosine[j]; });
  pairing.exact.resize(a.tokens());
  for (size_t i = 0; i < order.size(); ++i) {
    pairing.exact[order[i]] = static_cast<double>(i) < kExactShare * static_cast<double>(order.size());
  }
  return pairing;
}

// The direction between two on the sphere (SLERP).
void write_direction(const float* x, double length_x, const float* y, double length_y, double cosine, uint32_t count,
                     float* out) {
  const double angle = std::acos(cosine);
  const double sine = std::sin(angle);
  const bool close = sine < 1e-4;
  const double of_x = (close ? 1 - kBetween : std::sin((1 - kBetween) * angle) / sine) / std::max(length_x, 1e-30);
  const double of_y = (close ? kBetween : std::sin(kBetween * angle) / sine) / std::max(length_y, 1e-30);
  for (uint32_t i = 0; i < count; ++i) out[i] = static_cast<float>(of_x * double{x[i]} + of_y * double{y[i]});
}

uint64_t code_pair(PresetPlane& a, PresetPlane& b) {
  const uint32_t channels = a.channels();
  const Pairing pairing = pair_tokens(a, b);
  PresetPlane shared = a;
  for (uint32_t t = 0; t < a.tokens(); ++t) {
    const size_t row = size_t{t} * channels;
    write_direction(&a.rows[row], pairing.length_a[t], &b.rows[row], pairing.length_b[t], pairing.cosine[t], channels,
                    &shared.rows[row]);
  }
  uint64_t total = quantize_kivi(shared, kivi_tokens(shared), kBits);
  for (uint32_t t = 0; t < a.tokens(); ++t) {
    total += pairing.exact[t] ? 32 + uint64_t{channels} * 32 : 32;
    for (PresetPlane* plane : {&a, &b}) {
      const auto length = static_cast<float>(plane == &a ? pairing.length_a[t] : pairing.length_b[t]);
      for (size_t i = size_t{t} * channels; i < (t + size_t{1}) * channels; ++i) {
        plane->rows[i] = pairing.exact[t] ? round_to_f16(plane->rows[i]) : round_to_f16(length) * shared.rows[i];
      }
    }
  }
  return total;
}

// Planes that are coded together: one, or the two of adjacent layers.
std::vector<std::vector<size_t>> jobs_of(const KvTensor& tensor) {
  uint32_t layers = 0;
  std::map<std::tuple<uint32_t, Side, uint32_t>, size_t> index;
  for (size_t p = 0; p < tensor.planes.size(); ++p) {
    const KvPlane& plane = tensor.planes[p];
    layers = std::max(layers, plane.layer + 1);
    index[{plane.token_set, plane.side, plane.layer}] = p;
  }
  std::vector<bool> taken(tensor.planes.size());
  std::vector<std::vector<size_t>> jobs;
  for (const auto& [key, p] : index) {
    if (taken[p]) continue;
    const auto [set, side, layer] = key;
    const auto next = index.find({set, side, layer + 1});
    const bool together = layer >= layers / 2 && (layer - layers / 2) % 2 == 0 && next != index.end() &&
                          tensor.planes[next->second].view.channels() == tensor.planes[p].view.channels();
    jobs.push_back({p});
    if (together) jobs.back().push_back(next->second);
    for (const size_t of_job : jobs.back()) taken[of_job] = true;
  }
  return jobs;
}

Result<PresetResult> run(const PresetInput& input) {
  PresetResult result = empty_result(input.file.tensor);
  const auto jobs = jobs_of(input.file.tensor);
  std::vector<uint64_t> bits(jobs.size());
  parallel_for(jobs.size(), input.threads, [&](uint64_t j) {
    std::vector<PresetPlane> planes;
    for (const size_t p : jobs[j]) planes.push_back(load_plane(input, p, false));
    bits[j] =
        planes.size() == 2 ? code_pair(planes[0], planes[1]) : quantize_kivi(planes[0], kivi_tokens(planes[0]), kBits);
    for (size_t i = 0; i < planes.size(); ++i) store_plane(planes[i], jobs[j][i], result);
  });
  for (const uint64_t of_job : bits) result.bytes += (of_job + 7) / 8;
  return result;
}

}  // namespace

void add_minicache(std::vector<Preset>& all) {
  all.push_back({"minicache", "minicache", "kivi-4; pairs of later layers share directions", run});
}

}  // namespace kvpack
