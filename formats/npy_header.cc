// SPDX-License-Identifier: Apache-2.0
#include "formats/npy_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>

namespace kvpack {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kMaxDims = 16;

// A cursor over the header text. Every expectation that fails names the place and what was expected.
class DictParser {
 public:
  DictParser(std::string_view text, uint64_t file_offset) : text_(text), file_offset_(file_offset) {}

  Result<NpyHeader> parse() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    KVPACK_RETURN_IF_ERROR(expect('{'));
    while (!accept('}')) {
      KVPACK_ASSIGN_OR_RETURN(std::string key, quoted());
      KVPACK_RETURN_IF_ERROR(expect(':'));
      bool& seen = key == "descr" ? has_descr : key == "fortran_order" ? has_order : has_shape;
      if (seen || (key != "descr" && key != "fortran_order" && key != "shape")) {
        return fail(fmt::format("each of 'descr', 'fortran_order', 'shape' once, not '{}'", key));
      }
      seen = true;
      if (key == "descr") {
        KVPACK_ASSIGN_OR_RETURN(header.descr, quoted());
      } else if (key == "fortran_order") {
        KVPACK_ASSIGN_OR_RETURN(header.fortran_order, boolean());
      } else {
        KVPACK_ASSIGN_OR_RETURN(header.shape, tuple());
      }
      if (accept(',')) continue;
      KVPACK_RETURN_IF_ERROR(expect('}'));
      break;
    }
    skip_space();
    if (at_ != text_.size()) return fail("the end of the header");
    if (!has_descr || !has_order || !has_shape) return fail("'descr', 'fortran_order' and 'shape'");
    return header;
  }

 private:
  Error fail(std::string_view expected) const {
    return corrupt(fmt::format("npy header at offset {}: expected {}", file_offset_ + at_, expected));
  }
  void skip_space() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr && text_[at_] != '\0') ++at_;
  }
  bool accept(char wanted) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  Status expect(char wanted) {
    if (accept(wanted)) return {};
    return fail(fmt::format("'{}'", wanted));
  }
  Result<std::string> quoted() {
    const char quote = accept('\'') ? '\'' : '"';
    if (quote == '"' && !accept('"')) return fail("a quoted text");
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos || end - at_ > 32) return fail("a short quoted text");
    std::string text(text_.substr(at_, end - at_));
    for (char c : text) {
      if (c < ' ' || c > '~' || c == '\\') return fail("plain characters");
    }
    at_ = end + 1;
    return text;
  }
  Result<bool> boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return value;
    }
    return fail("True or False");
  }
  Result<uint64_t> number() {
    skip_space();
    const size_t start = at_;
    uint64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (!checked_mul(value, 10, &value) || !checked_add(value, static_cast<uint64_t>(text_[at_] - '0'), &value)) {
        return fail("a number within 64 bits");
      }
    }
    if (at_ == start) return fail("a whole number");
    return value;
  }
  Result<std::vector<uint64_t>> tuple() {
    std::vector<uint64_t> values;
    KVPACK_RETURN_IF_ERROR(expect('('));
    while (!accept(')')) {
      if (values.size() == kMaxDims) return fail(fmt::format("at most {} dimensions", kMaxDims));
      KVPACK_ASSIGN_OR_RETURN(uint64_t value, number());
      values.push_back(value);
      if (accept(',')) continue;
      KVPACK_RETURN_IF_ERROR(expect(')'));
      break;
    }
    return values;
  }

  std::string_view text_;
  uint64_t file_offset_;
  size_t at_ = 0;
};

}  // namespace

Result<NpyHeader> parse_npy_header(ByteSpan bytes) {
  ByteReader reader(bytes);
  KVPACK_ASSIGN_OR_RETURN(ByteSpan magic, reader.take(kMagic.size(), "npy magic"));
  if (as_text(magic) != kMagic) return corrupt("offset 0: not the magic of a .npy file");
  KVPACK_ASSIGN_OR_RETURN(uint8_t major, reader.read<uint8_t>("npy version"));
  KVPACK_ASSIGN_OR_RETURN(uint8_t minor, reader.read<uint8_t>("npy version"));
  if (major < 1 || major > 3 || minor != 0) {
    return unsupported(fmt::format("offset 6: .npy version {}.{}, read are 1.0, 2.0 and 3.0", major, minor));
  }
  uint64_t length = 0;
  if (major == 1) {
    KVPACK_ASSIGN_OR_RETURN(length, reader.read<uint16_t>("npy header length"));
  } else {
    KVPACK_ASSIGN_OR_RETURN(length, reader.read<uint32_t>("npy header length"));
  }
  if (length > kMaxNpyHeaderBytes) {
    return limit_exceeded(fmt::format("offset 8: a .npy header of {} bytes, at most {}", length, kMaxNpyHeaderBytes));
  }
  const uint64_t text_offset = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(ByteSpan text, reader.take(length, "npy header"));
  KVPACK_ASSIGN_OR_RETURN(NpyHeader header, DictParser(as_text(text), text_offset).parse());
  header.data_offset = reader.offset();
  return header;
}

Bytes make_npy_header(const NpyHeader& header) {
  constexpr size_t kPrefixBytes = 10;
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': ({},), }}", header.descr,
                                 header.fortran_order ? "True" : "False", fmt::join(header.shape, ", "));
  const size_t padded = (kPrefixBytes + text.size() + 1 + 63) / 64 * 64;
  text.resize(padded - kPrefixBytes - 1, ' ');
  text += '\n';
  ByteWriter writer;
  writer.write_bytes(as_byte_span(kMagic));
  writer.write(uint8_t{1});
  writer.write(uint8_t{0});
  writer.write(static_cast<uint16_t>(text.size()));
  writer.write_bytes(as_byte_span(text));
  return writer.take();
}

}  // namespace kvpack
