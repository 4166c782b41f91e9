// SPDX-License-Identifier: Apache-2.0
#include "codec/class_code.h"

#include <fmt/format.h>

#include <cstdlib>

#include "codec/entropy_tables.h"

namespace kvpack {
namespace {

constexpr int kMaxDelta = 4;
constexpr int kMaxClassByte = 2 * kClassScales;

bool is_near(uint8_t class_byte, uint8_t reference) {
  const int delta = int{class_byte} - int{reference};
  return class_byte != kDeadClass && reference != kDeadClass && std::abs(delta) <= kMaxDelta;
}

}  // namespace

int class_code_bits(uint8_t class_byte, uint8_t reference) {
  if (class_byte == reference) return 1;
  if (class_byte == kDeadClass) return 3;
  return is_near(class_byte, reference) ? 5 : 11;
}

void ClassWriter::put(uint8_t class_byte, uint8_t reference) {
  if (class_byte == reference) {
    put_bits(0, 1);
  } else if (class_byte == kDeadClass) {
    put_bits(0b011, 3);
  } else if (is_near(class_byte, reference)) {
    const int delta = int{class_byte} - int{reference};
    const uint32_t code = static_cast<uint32_t>(2 * (std::abs(delta) - 1) + (delta < 0 ? 1 : 0));
    put_bits(0b01u | (code << 2), 5);
  } else {
    put_bits(0b111u | (uint32_t{class_byte} << 3), 11);
  }
}

void ClassWriter::put_bits(uint32_t value, int count) {
  pending_ |= value << pending_bits_;
  pending_bits_ += count;
  while (pending_bits_ >= 8) {
    bytes_.push_back(static_cast<std::byte>(pending_ & 0xffu));
    pending_ >>= 8;
    pending_bits_ -= 8;
  }
}

Bytes ClassWriter::finish() {
  if (pending_bits_ > 0) bytes_.push_back(static_cast<std::byte>(pending_));
  pending_ = 0;
  pending_bits_ = 0;
  return std::move(bytes_);
}

Result<uint32_t> ClassReader::take_bits(int count) {
  if (bit_ + static_cast<uint64_t>(count) > bytes_.size() * 8) return truncated("class codes end early");
  uint32_t value = 0;
  for (int i = 0; i < count; ++i, ++bit_) {
    value |= ((static_cast<uint32_t>(bytes_[bit_ / 8]) >> (bit_ % 8)) & 1u) << i;
  }
  return value;
}

Result<uint8_t> ClassReader::next(uint8_t reference) {
  KVPACK_ASSIGN_OR_RETURN(uint32_t other, take_bits(1));
  if (other == 0) return reference;
  KVPACK_ASSIGN_OR_RETURN(uint32_t far, take_bits(1));
  if (far == 0) {
    KVPACK_ASSIGN_OR_RETURN(uint32_t code, take_bits(3));
    const int delta = static_cast<int>(code / 2 + 1) * ((code & 1u) != 0 ? -1 : 1);
    const int class_byte = reference + delta;
    if (reference == kDeadClass || class_byte < 1 || class_byte > kMaxClassByte) {
      return corrupt(fmt::format("class code moves reference {} to {}", reference, class_byte));
    }
    return static_cast<uint8_t>(class_byte);
  }
  KVPACK_ASSIGN_OR_RETURN(uint32_t literal, take_bits(1));
  if (literal == 0) return kDeadClass;
  KVPACK_ASSIGN_OR_RETURN(uint32_t class_byte, take_bits(8));
  if (class_byte < 1 || class_byte > kMaxClassByte)
    return corrupt(fmt::format("class byte {} out of range", class_byte));
  return static_cast<uint8_t>(class_byte);
}

Status ClassReader::finish() const {
  if ((bit_ + 7) / 8 != bytes_.size()) {
    return corrupt(fmt::format("class codes use {} bits of {} bytes", bit_, bytes_.size()));
  }
  for (uint64_t bit = bit_; bit < bytes_.size() * 8; ++bit) {
    if (((static_cast<uint32_t>(bytes_[bit / 8]) >> (bit % 8)) & 1u) != 0)
      return corrupt("class codes end in set padding bits");
  }
  return {};
}

}  // namespace kvpack
