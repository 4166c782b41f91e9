// SPDX-License-Identifier: Apache-2.0
#include "cli/tensor_distance.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <tuple>

namespace kvpack::cli {
namespace {

// A stream's number says where cells lay, not what they are: a file converted from four streams to one still compares.
// Streams are therefore told apart by their order only.
using PlaneKey = std::tuple<uint32_t, Side, uint32_t>;  // layer, side, ordinal among planes of that layer and side

std::map<PlaneKey, const KvPlane*> planes_by_key(const KvTensor& tensor) {
  std::map<PlaneKey, const KvPlane*> planes;
  for (const KvPlane& plane : tensor.planes) {
    uint32_t ordinal = 0;
    while (planes.contains({plane.layer, plane.side, ordinal})) ++ordinal;
    planes[{plane.layer, plane.side, ordinal}] = &plane;
  }
  return planes;
}

std::string plane_name(const PlaneKey& key) {
  return fmt::format("layer {} {}", std::get<0>(key), side_name(std::get<1>(key)));
}

Status check_same_planes(const std::map<PlaneKey, const KvPlane*>& a, const std::map<PlaneKey, const KvPlane*>& b) {
  for (const auto& [key, plane] : a) {
    const auto other = b.find(key);
    if (other == b.end()) {
      return invalid_argument(fmt::format("shapes differ: {} is only in the first ({} planes against {})",
                                          plane_name(key), a.size(), b.size()));
    }
    const uint32_t channels = plane->view.channels();
    const uint32_t other_channels = other->second->view.channels();
    if (channels != other_channels) {
      return invalid_argument(
          fmt::format("shapes differ: {} has {} channels against {}", plane_name(key), channels, other_channels));
    }
  }
  for (const auto& [key, plane] : b) {
    if (a.contains(key)) continue;
    return invalid_argument(fmt::format("shapes differ: {} is only in the second ({} planes against {})",
                                        plane_name(key), a.size(), b.size()));
  }
  return {};
}

PlaneDistance compare_planes(const KvTensor& a, const KvPlane& plane_a, const KvTensor& b, const KvPlane& plane_b) {
  const std::vector<int32_t>& positions_a = a.token_sets[plane_a.token_set].positions;
  const std::vector<int32_t>& positions_b = b.token_sets[plane_b.token_set].positions;
  PlaneDistance result;
  result.layer = plane_a.layer;
  result.side = plane_a.side;
  result.stream = a.token_sets[plane_a.token_set].stream;
  std::vector<float> row_a(plane_a.view.channels());
  std::vector<float> row_b(plane_b.view.channels());
  uint32_t i = 0;
  uint32_t j = 0;
  while (i < positions_a.size() && j < positions_b.size()) {
    if (positions_a[i] != positions_b[j]) {
      ++(positions_a[i] < positions_b[j] ? i : j);
      continue;
    }
    load_values(plane_a.view, i++, 1, row_a.data());
    load_values(plane_b.view, j++, 1, row_b.data());
    for (size_t channel = 0; channel < row_a.size(); ++channel) result.distance.add(row_a[channel], row_b[channel]);
    ++result.tokens;
  }
  result.tokens_only_a = static_cast<uint32_t>(positions_a.size()) - result.tokens;
  result.tokens_only_b = static_cast<uint32_t>(positions_b.size()) - result.tokens;
  return result;
}

}  // namespace

void Distance::add(float a, float b) {
  ++values;
  if (std::bit_cast<uint32_t>(a) != std::bit_cast<uint32_t>(b) && !(a == b)) ++differing;
  if (!std::isfinite(a) || !std::isfinite(b)) {
    if (std::bit_cast<uint32_t>(a) != std::bit_cast<uint32_t>(b)) ++non_finite;
    return;
  }
  const double error = std::abs(double{a} - double{b});
  max_abs_error = std::max(max_abs_error, error);
  squared_error += error * error;
  squared_a += double{a} * double{a};
  squared_b += double{b} * double{b};
  product += double{a} * double{b};
}

Distance& Distance::operator+=(const Distance& other) {
  values += other.values;
  differing += other.differing;
  non_finite += other.non_finite;
  max_abs_error = std::max(max_abs_error, other.max_abs_error);
  squared_error += other.squared_error;
  squared_a += other.squared_a;
  squared_b += other.squared_b;
  product += other.product;
  return *this;
}

double Distance::relative_l2() const {
  if (squared_error == 0) return 0;
  return std::sqrt(squared_error / squared_a);  // infinite if only b is not zero
}

double Distance::cosine() const {
  if (squared_error == 0) return 1;
  const double norms = std::sqrt(squared_a) * std::sqrt(squared_b);
  return norms > 0 ? std::min(1.0, product / norms) : 0;
}

Result<std::vector<PlaneDistance>> distance_between(const KvTensor& a, const KvTensor& b) {
  const auto planes_a = planes_by_key(a);
  const auto planes_b = planes_by_key(b);
  KVPACK_RETURN_IF_ERROR(check_same_planes(planes_a, planes_b));
  std::vector<PlaneDistance> distances;
  for (const auto& [key, plane] : planes_a) {
    distances.push_back(compare_planes(a, *plane, b, *planes_b.at(key)));
    const PlaneDistance& last = distances.back();
    if (last.tokens == 0 && last.tokens_only_a + last.tokens_only_b > 0) {
      return invalid_argument(fmt::format("shapes differ: no position of {} is in both ({} tokens against {})",
                                          plane_name(key), last.tokens_only_a, last.tokens_only_b));
    }
  }
  return distances;
}

}  // namespace kvpack::cli
