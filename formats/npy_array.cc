// SPDX-License-Identifier: Apache-2.0
#include "formats/npy_array.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>

#include "formats/half.h"
#include "formats/npy_header.h"

namespace kvpack {
namespace {

uint32_t element_bytes_of(const std::string& descr) {
  if (descr == "|b1" || descr == "|u1") return 1;
  if (descr == "<f2") return 2;
  if (descr == "<f4") return 4;
  return descr == "<f8" ? 8 : 0;
}

template <typename T>
T element_at(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float value_at(const std::byte* at, uint32_t element_bytes) {
  if (element_bytes == 1) return static_cast<float>(element_at<uint8_t>(at));
  if (element_bytes == 2) return f16_to_f32(element_at<uint16_t>(at));
  return element_bytes == 4 ? element_at<float>(at) : static_cast<float>(element_at<double>(at));
}

}  // namespace

Result<NpyArray> read_npy_array(ByteSpan bytes, uint64_t max_values) {
  KVPACK_ASSIGN_OR_RETURN(const NpyHeader header, parse_npy_header(bytes));
  const uint32_t element_bytes = element_bytes_of(header.descr);
  if (element_bytes == 0) {
    return unsupported(fmt::format("npy type '{}', read are f2, f4, f8 (little endian), b1 and u1", header.descr));
  }
  if (header.fortran_order && header.shape.size() > 1) {
    return unsupported("npy array in Fortran order: save numpy.ascontiguousarray of it");
  }
  uint64_t count = 1;
  for (const uint64_t dim : header.shape) {
    if (!checked_mul(count, dim, &count) || count > max_values) {
      return limit_exceeded(
          fmt::format("npy shape ({}): at most {} values are read", fmt::join(header.shape, ", "), max_values));
    }
  }
  const uint64_t data_bytes = bytes.size() - header.data_offset;
  if (data_bytes != count * element_bytes) {
    const std::string text =
        fmt::format("npy: {} bytes of values, the header says {}", data_bytes, count * element_bytes);
    return data_bytes < count * element_bytes ? truncated(text) : corrupt(text);
  }
  NpyArray array{header.shape, std::vector<float>(count)};
  for (uint64_t i = 0; i < count; ++i) {
    array.values[i] = value_at(bytes.data() + header.data_offset + i * element_bytes, element_bytes);
  }
  return array;
}

}  // namespace kvpack
