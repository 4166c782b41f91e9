// SPDX-License-Identifier: Apache-2.0
// UTF-8 as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
#include "cli/printable.h"

#include <fmt/format.h>

#include <cstdint>

namespace kvpack::cli {
namespace {

struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 0;  // 0: not UTF-8
};

CodePoint first_code_point(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return {};
  uint32_t value = lead & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<uint8_t>(text[i]);
    if ((next & 0xc0) != 0x80) return {};
    value = value << 6 | (next & 0x3fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < kSmallest[bytes] || surrogate || value > 0x10ffff) return {};
  return {value, bytes};
}

bool is_harmless(uint32_t code_point) {
  const auto within = [code_point](uint32_t first, uint32_t last) { return code_point >= first && code_point <= last; };
  const bool control = code_point < 0x20 || within(0x7f, 0x9f);
  const bool bidirectional = within(0x200e, 0x200f) || within(0x202a, 0x202e) || within(0x2066, 0x2069);
  const bool separator = within(0x2028, 0x2029);
  const bool tag = within(0xe0000, 0xe007f) || code_point == 0xfeff;
  return !control && !bidirectional && !separator && !tag;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const CodePoint next = first_code_point(text);
    const size_t bytes = next.bytes == 0 ? 1 : next.bytes;
    if (next.bytes == 0) {
      out += fmt::format("\\x{:02x}", static_cast<uint8_t>(text[0]));
    } else if (is_harmless(next.value)) {
      out += text.substr(0, bytes);
    } else if (next.value == '\n') {
      out += "\\n";
    } else if (next.value == '\t') {
      out += "\\t";
    } else {
      out += next.value < 0x80 ? fmt::format("\\x{:02x}", next.value) : fmt::format("\\u{{{:x}}}", next.value);
    }
    text.remove_prefix(bytes);
  }
  return out;
}

}  // namespace kvpack::cli
