// SPDX-License-Identifier: Apache-2.0
// GGUF files from their keys (ggml/docs/gguf.md), right or wrong.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/bytes.h"

namespace kvpack::test {

class GgufBuilder {
 public:
  enum Type : uint32_t { kU8 = 0, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10 };

  explicit GgufBuilder(std::string_view architecture = "llama", uint32_t version = 3)
      : architecture_(architecture), version_(version) {
    if (!architecture.empty()) text("general.architecture", architecture);
  }

  // Keys that begin with a dot are the architecture's.
  GgufBuilder& u32(std::string_view key, uint32_t value) { return start(key, kU32), keys_.write(value), *this; }
  GgufBuilder& f32(std::string_view key, float value) { return start(key, kF32), keys_.write(value), *this; }
  GgufBuilder& flag(std::string_view key, uint8_t value) { return start(key, kBool), keys_.write(value), *this; }
  GgufBuilder& text(std::string_view key, std::string_view value) {
    return start(key, kString), string(keys_, value), *this;
  }
  GgufBuilder& u32s(std::string_view key, const std::vector<uint32_t>& values) {
    start(key, kArray);
    keys_.write(uint32_t{kU32});
    keys_.write(uint64_t{values.size()});
    for (const uint32_t value : values) keys_.write(value);
    return *this;
  }
  // A key whose type and bytes are given raw.
  GgufBuilder& raw(std::string_view key, uint32_t type, const Bytes& value) {
    return start(key, type), keys_.write_bytes(value), *this;
  }
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    string(infos_, name);
    infos_.write(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) infos_.write(dim);
    infos_.write(type);
    infos_.write(offset);
    ++tensors_;
    return *this;
  }
  GgufBuilder& f32_tensor(std::string_view name, const std::vector<float>& values) {
    tensor(name, {values.size()}, 0, data_.size());
    for (const float value : values) data_.write(value);
    data_.write_zeros((32 - data_.size() % 32) % 32);
    return *this;
  }

  Bytes take() {
    ByteWriter file;
    file.write_bytes(as_byte_span("GGUF"));
    file.write(version_);
    file.write(tensors_);
    file.write(count_);
    file.write_bytes(keys_.bytes());
    file.write_bytes(infos_.bytes());
    file.write_zeros((32 - file.size() % 32) % 32);
    file.write_bytes(data_.bytes());
    return file.take();
  }

 private:
  static void string(ByteWriter& writer, std::string_view text) {
    writer.write(uint64_t{text.size()});
    writer.write_bytes(as_byte_span(text));
  }
  void start(std::string_view key, uint32_t type) {
    string(keys_, key.starts_with('.') ? architecture_ + std::string(key) : std::string(key));
    keys_.write(type);
    ++count_;
  }

  std::string architecture_;
  uint32_t version_;
  uint64_t count_ = 0;
  uint64_t tensors_ = 0;
  ByteWriter keys_, infos_, data_;
};

}  // namespace kvpack::test
