// SPDX-License-Identifier: Apache-2.0
#include "net/fetched_archive.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpack {

void FetchedArchive::add(uint64_t offset, Bytes bytes) {
  const std::lock_guard lock(mutex_);
  pieces_.insert_or_assign(offset, std::move(bytes));
}

Result<Bytes> FetchedArchive::read(uint64_t offset, uint64_t count) {
  auto here = read_here(offset, count);
  if (here.ok() || fallback_ == nullptr) return here;
  KVPACK_ASSIGN_OR_RETURN(Bytes bytes, fallback_->read(offset, count));
  add(offset, bytes);
  return bytes;
}

Result<Bytes> FetchedArchive::read_here(uint64_t offset, uint64_t count) {
  const std::lock_guard lock(mutex_);
  Bytes out;
  auto piece = pieces_.upper_bound(offset);
  if (piece != pieces_.begin()) --piece;
  for (uint64_t at = offset; at < offset + count; ++piece) {
    if (piece == pieces_.end() || piece->first > at || at - piece->first >= piece->second.size()) {
      return truncated(fmt::format("{}: {} bytes at offset {} are not here yet", name_, count, offset));
    }
    const uint64_t skip = at - piece->first;
    const uint64_t take = std::min(piece->second.size() - skip, offset + count - at);
    if (out.empty()) out.reserve(count);
    const auto from = piece->second.begin() + static_cast<long>(skip);
    out.insert(out.end(), from, from + static_cast<long>(take));
    at += take;
  }
  return out;
}

}  // namespace kvpack
