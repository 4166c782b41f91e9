// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "formats/bytes.h"
#include "formats/gguf_stream.h"

namespace kvpack {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kMaxDims = 4;         // GGML_MAX_DIMS

enum ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Smallest encoding of a value of each type: what a count is checked against before anything is read.
constexpr std::array<uint64_t, 13> kMinBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

template <typename T>
Result<GgufValue> read_integer(GgufStream& in, std::string_view what) {
  KVPACK_ASSIGN_OR_RETURN(T value, in.read<T>(what));
  if constexpr (std::is_unsigned_v<T>) {
    return GgufValue(uint64_t{value});
  } else {
    return GgufValue(int64_t{value});
  }
}

Result<GgufValue> read_scalar(GgufStream& in, uint32_t type, std::string_view what) {
  switch (type) {
    case kU8:
      return read_integer<uint8_t>(in, what);
    case kI8:
      return read_integer<int8_t>(in, what);
    case kU16:
      return read_integer<uint16_t>(in, what);
    case kI16:
      return read_integer<int16_t>(in, what);
    case kU32:
      return read_integer<uint32_t>(in, what);
    case kI32:
      return read_integer<int32_t>(in, what);
    case kU64:
      return read_integer<uint64_t>(in, what);
    case kI64:
      return read_integer<int64_t>(in, what);
    case kF32: {
      KVPACK_ASSIGN_OR_RETURN(float value, in.read<float>(what));
      return GgufValue(double{value});
    }
    case kF64: {
      KVPACK_ASSIGN_OR_RETURN(double value, in.read<double>(what));
      return GgufValue(value);
    }
    default: {
      const uint64_t at = in.offset();
      KVPACK_ASSIGN_OR_RETURN(uint8_t value, in.read<uint8_t>(what));
      if (value > 1) return corrupt(fmt::format("{} at offset {}: a boolean is 0 or 1, found {}", what, at, value));
      return GgufValue(value == 1);
    }
  }
}

// A string value: kept when short.
Result<GgufValue> read_string_value(GgufStream& in, std::string_view what) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read<uint64_t>(what));
  if (bytes > kMaxGgufKeptString) {
    KVPACK_RETURN_IF_ERROR(in.skip(bytes, what));
    return GgufValue(GgufSkipped{bytes});
  }
  if (bytes > in.remaining()) {
    return truncated(
        fmt::format("{} at offset {} needs {} bytes, {} are left", what, in.offset(), bytes, in.remaining()));
  }
  std::string text(bytes, '\0');
  KVPACK_RETURN_IF_ERROR(in.read_into(std::as_writable_bytes(std::span(text)), what));
  return GgufValue(std::move(text));
}

// A key or tensor name.
Result<std::string> read_name(GgufStream& in, std::string_view what) {
  const uint64_t at = in.offset();
  KVPACK_ASSIGN_OR_RETURN(GgufValue value, read_string_value(in, what));
  std::string* name = std::get_if<std::string>(&value);
  if (name == nullptr) {
    return corrupt(fmt::format("{} at offset {}: longer than {} bytes", what, at, kMaxGgufKeptString));
  }
  return std::move(*name);
}

double as_number(const GgufValue& value) {
  if (const bool* flag = std::get_if<bool>(&value)) return *flag ? 1 : 0;
  if (const uint64_t* number = std::get_if<uint64_t>(&value)) return static_cast<double>(*number);
  if (const int64_t* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  return std::get<double>(value);
}

Status check_type(uint32_t type, uint64_t at, std::string_view what) {
  if (type < kMinBytes.size()) return {};
  return corrupt(
      fmt::format("{} at offset {}: value type {}, known are 0 to {}", what, at, type, kMinBytes.size() - 1));
}

Result<GgufValue> read_array(GgufStream& in, int depth, std::string_view what) {
  if (depth > kMaxGgufArrayDepth) {
    return corrupt(
        fmt::format("{} at offset {}: arrays nested more than {} deep", what, in.offset(), kMaxGgufArrayDepth));
  }
  const uint64_t at = in.offset();
  KVPACK_ASSIGN_OR_RETURN(uint32_t type, in.read<uint32_t>(what));
  KVPACK_RETURN_IF_ERROR(check_type(type, at, what));
  KVPACK_ASSIGN_OR_RETURN(uint64_t count, in.read<uint64_t>(what));
  if (count > in.remaining() / kMinBytes[type]) {
    return truncated(fmt::format("{} at offset {}: {} array elements of at least {} bytes, {} bytes are left", what, at,
                                 count, kMinBytes[type], in.remaining()));
  }
  if (type == kString) {
    for (uint64_t i = 0; i < count; ++i) {
      KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read<uint64_t>(what));
      KVPACK_RETURN_IF_ERROR(in.skip(bytes, what));
    }
    return GgufValue(GgufSkipped{count});
  }
  if (type == kArray) {
    for (uint64_t i = 0; i < count; ++i) KVPACK_RETURN_IF_ERROR(read_array(in, depth + 1, what));
    return GgufValue(GgufSkipped{count});
  }
  if (count > kMaxGgufKeptArray) {
    KVPACK_RETURN_IF_ERROR(in.skip(count * kMinBytes[type], what));
    return GgufValue(GgufSkipped{count});
  }
  std::vector<double> numbers;
  numbers.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    KVPACK_ASSIGN_OR_RETURN(GgufValue value, read_scalar(in, type, what));
    numbers.push_back(as_number(value));
  }
  return GgufValue(std::move(numbers));
}

Status read_key(GgufStream& in, Gguf& gguf) {
  const uint64_t at = in.offset();
  KVPACK_ASSIGN_OR_RETURN(std::string key, read_name(in, "GGUF key"));
  const std::string what = fmt::format("GGUF key '{}'", key);
  const uint64_t type_at = in.offset();
  KVPACK_ASSIGN_OR_RETURN(uint32_t type, in.read<uint32_t>(what));
  KVPACK_RETURN_IF_ERROR(check_type(type, type_at, what));
  auto value = type == kString  ? read_string_value(in, what)
               : type == kArray ? read_array(in, 1, what)
                                : read_scalar(in, type, what);
  if (!value.ok()) return value.error();
  if (!gguf.values.emplace(std::move(key), std::move(value).value()).second) {
    return corrupt(fmt::format("{} at offset {}: a second time", what, at));
  }
  return {};
}

Status read_tensor_info(GgufStream& in, Gguf& gguf) {
  const uint64_t at = in.offset();
  KVPACK_ASSIGN_OR_RETURN(std::string name, read_name(in, "GGUF tensor name"));
  const std::string what = fmt::format("GGUF tensor '{}'", name);
  GgufTensor tensor;
  KVPACK_ASSIGN_OR_RETURN(uint32_t dims, in.read<uint32_t>(what));
  if (dims > kMaxDims)
    return corrupt(fmt::format("{} at offset {}: {} dimensions, at most {}", what, at, dims, kMaxDims));
  tensor.values = 1;
  for (uint32_t i = 0; i < dims; ++i) {
    KVPACK_ASSIGN_OR_RETURN(uint64_t dim, in.read<uint64_t>(what));
    if (!checked_mul(tensor.values, dim, &tensor.values) || dim > INT64_MAX || tensor.values > INT64_MAX) {
      return corrupt(fmt::format("{} at offset {}: its dimensions overflow 64 bits", what, at));
    }
    tensor.dims.push_back(dim);
  }
  KVPACK_ASSIGN_OR_RETURN(tensor.type, in.read<uint32_t>(what));
  KVPACK_ASSIGN_OR_RETURN(tensor.offset, in.read<uint64_t>(what));
  if (tensor.offset % gguf.alignment != 0) {
    return corrupt(fmt::format("{} at offset {}: data offset {} is no multiple of the alignment {}", what, at,
                               tensor.offset, gguf.alignment));
  }
  if (!gguf.tensors.emplace(std::move(name), std::move(tensor)).second) {
    return corrupt(fmt::format("{} at offset {}: a second time", what, at));
  }
  return {};
}

Status check_magic_and_version(GgufStream& in, Gguf& gguf) {
  KVPACK_ASSIGN_OR_RETURN(uint32_t magic, in.read<uint32_t>("GGUF magic"));
  if (magic != kMagic) return corrupt(fmt::format("offset 0: expected the magic 'GGUF', found 0x{:08x}", magic));
  KVPACK_ASSIGN_OR_RETURN(gguf.version, in.read<uint32_t>("GGUF version"));
  if (gguf.version == 2 || gguf.version == 3) return {};
  if (gguf.version == 0x02000000 || gguf.version == 0x03000000) {
    return unsupported("offset 4: a big-endian GGUF file, only little-endian is read");
  }
  return unsupported(fmt::format("offset 4: GGUF version {}, only 2 and 3 are read", gguf.version));
}

// A count of things that take at least `min_bytes` each.
Result<uint64_t> read_count(GgufStream& in, uint64_t min_bytes, uint64_t limit, std::string_view what) {
  const uint64_t at = in.offset();
  KVPACK_ASSIGN_OR_RETURN(uint64_t count, in.read<uint64_t>(what));
  if (count > in.remaining() / min_bytes) {
    return truncated(fmt::format("{} at offset {}: {}, but only {} bytes are left", what, at, count, in.remaining()));
  }
  if (count > limit) return limit_exceeded(fmt::format("{} at offset {}: {}, at most {}", what, at, count, limit));
  return count;
}

Status read_alignment(Gguf& gguf) {
  KVPACK_ASSIGN_OR_RETURN(auto alignment, gguf.find_uint("general.alignment"));
  if (!alignment) return {};
  if (!std::has_single_bit(*alignment) || *alignment > UINT32_MAX) {
    return corrupt(fmt::format("GGUF key 'general.alignment': {}, expected a power of two", *alignment));
  }
  gguf.alignment = *alignment;
  return {};
}

Error wrong_type(std::string_view key, std::string_view expected) {
  return corrupt(fmt::format("GGUF key '{}': expected {}", key, expected));
}

}  // namespace

bool looks_like_gguf(ByteSpan bytes) {
  return bytes.size() >= sizeof kMagic && std::memcmp(bytes.data(), &kMagic, sizeof kMagic) == 0;
}

Result<Gguf> read_gguf(ByteSource& source) {
  GgufStream in(source, kMaxGgufHeaderBytes);
  Gguf gguf;
  KVPACK_RETURN_IF_ERROR(check_magic_and_version(in, gguf));
  constexpr uint64_t kTensorMinBytes = 8 + 4 + 4 + 8;
  constexpr uint64_t kKeyMinBytes = 8 + 4 + 1;
  KVPACK_ASSIGN_OR_RETURN(uint64_t tensors, read_count(in, kTensorMinBytes, kMaxGgufTensors, "GGUF tensor count"));
  KVPACK_ASSIGN_OR_RETURN(uint64_t keys, read_count(in, kKeyMinBytes, kMaxGgufKeys, "GGUF key count"));
  for (uint64_t i = 0; i < keys; ++i) KVPACK_RETURN_IF_ERROR(read_key(in, gguf));
  KVPACK_RETURN_IF_ERROR(read_alignment(gguf));
  for (uint64_t i = 0; i < tensors; ++i) KVPACK_RETURN_IF_ERROR(read_tensor_info(in, gguf));
  gguf.header_bytes = in.offset();
  gguf.header_hash = in.hash();
  gguf.data_offset = (gguf.header_bytes + gguf.alignment - 1) / gguf.alignment * gguf.alignment;
  for (const auto& [name, tensor] : gguf.tensors) {
    if (gguf.data_offset > source.size() || tensor.offset > source.size() - gguf.data_offset) {
      return truncated(
          fmt::format("GGUF tensor '{}': its data begins {} bytes into the tensor data, the file ends at {}", name,
                      tensor.offset, source.size()));
    }
  }
  return gguf;
}

Result<std::vector<float>> read_gguf_f32(ByteSource& source, const Gguf& gguf, std::string_view name,
                                         uint64_t max_values) {
  const auto found = gguf.tensors.find(name);
  if (found == gguf.tensors.end()) return std::vector<float>();
  const GgufTensor& tensor = found->second;
  if (tensor.type != kGgufTypeF32) {
    return unsupported(fmt::format("GGUF tensor '{}': ggml type {}, expected f32", name, tensor.type));
  }
  if (tensor.values > max_values) {
    return limit_exceeded(fmt::format("GGUF tensor '{}': {} values, at most {}", name, tensor.values, max_values));
  }
  const uint64_t bytes = tensor.values * sizeof(float);
  const uint64_t offset = gguf.data_offset + tensor.offset;
  if (offset > source.size() || bytes > source.size() - offset) {
    return truncated(fmt::format("GGUF tensor '{}' at offset {} needs {} bytes, the file has {}", name, offset, bytes,
                                 source.size()));
  }
  KVPACK_ASSIGN_OR_RETURN(Bytes raw, source.read(offset, bytes));
  std::vector<float> values(tensor.values);
  if (!values.empty()) std::memcpy(values.data(), raw.data(), bytes);
  return values;
}

Result<std::optional<uint64_t>> Gguf::find_uint(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::optional<uint64_t>();
  if (const uint64_t* number = std::get_if<uint64_t>(&found->second)) return std::optional(*number);
  if (const int64_t* number = std::get_if<int64_t>(&found->second); number != nullptr && *number >= 0) {
    return std::optional(static_cast<uint64_t>(*number));
  }
  return wrong_type(key, "one non-negative integer");
}

Result<std::optional<double>> Gguf::find_number(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::optional<double>();
  const GgufValue& value = found->second;
  const bool numeric = std::holds_alternative<uint64_t>(value) || std::holds_alternative<int64_t>(value) ||
                       std::holds_alternative<double>(value);
  if (!numeric || !std::isfinite(as_number(value))) return wrong_type(key, "one finite number");
  return std::optional(as_number(value));
}

Result<std::optional<std::string>> Gguf::find_string(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::optional<std::string>();
  if (const std::string* text = std::get_if<std::string>(&found->second)) return std::optional(*text);
  return wrong_type(key, fmt::format("a string of at most {} bytes", kMaxGgufKeptString));
}

Result<std::optional<std::vector<double>>> Gguf::find_numbers(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::optional<std::vector<double>>();
  const GgufValue& value = found->second;
  if (const auto* numbers = std::get_if<std::vector<double>>(&value)) return std::optional(*numbers);
  if (std::holds_alternative<std::string>(value) || std::holds_alternative<GgufSkipped>(value)) {
    return wrong_type(key, fmt::format("a number or at most {} numbers", kMaxGgufKeptArray));
  }
  return std::optional(std::vector<double>{as_number(value)});
}

}  // namespace kvpack
