// SPDX-License-Identifier: Apache-2.0
#include "net/s3_error.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "net/range_response.h"

namespace kvpack {

std::string xml_text(std::string_view xml, std::string_view name) {
  const std::string open = fmt::format("<{}>", name);
  const size_t start = xml.find(open);
  if (start == std::string_view::npos) return "";
  const std::string_view rest = xml.substr(start + open.size());
  std::string text;
  for (size_t i = 0; i < rest.size() && rest[i] != '<'; ++i) {
    constexpr std::pair<std::string_view, char> kEntities[] = {{"&amp;", '&'},  {"&lt;", '<'},    {"&gt;", '>'},
                                                               {"&quot;", '"'}, {"&apos;", '\''}, {"&#34;", '"'},
                                                               {"&#39;", '\''}};
    const auto* entity = std::find_if(std::begin(kEntities), std::end(kEntities), [&](const auto& candidate) {
      return rest.substr(i, candidate.first.size()) == candidate.first;
    });
    const bool is_entity = entity != std::end(kEntities);
    text += is_entity ? entity->second : rest[i];
    if (is_entity) i += entity->first.size() - 1;
  }
  return text;
}

std::string s3_error_text(const HttpHead& head, std::string_view body) {
  std::string text = "the server says " + status_text(head);
  for (const char* name : {"Code", "Message"}) {
    const std::string detail = xml_text(body, name);
    if (!detail.empty()) text += ": " + detail;
  }
  return text;
}

}  // namespace kvpack
