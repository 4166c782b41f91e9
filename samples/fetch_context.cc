// SPDX-License-Identifier: Apache-2.0
// fetch_context URL OUT SECONDS: the best of a remote archive that arrives within SECONDS, as the KV file it was made
// from. URL is http(s)://, file:// or a path. Links kvpack::net and kvpack::codec.
#include <cstdio>
#include <cstdlib>

#include "codec/archive_codec.h"
#include "net/fetcher.h"

namespace {

using namespace kvpack;

Status fetch(const char* url, const char* out, double seconds) {
  FetchOptions options;
  options.start = NetClock::now();
  options.goal.deadline_s = seconds;
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_range_source(url, {}));

  // The opening request brought the directory, as a rule; what it did not is read on demand.
  FetchedArchive archive(source->size(), source->name());
  archive.add(0, Bytes(source->head().begin(), source->head().end()));
  RangeByteSource rest(*source);
  archive.set_fallback(&rest);
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(archive));
  archive.set_fallback(nullptr);

  KVPACK_ASSIGN_OR_RETURN(const FetchReport report, fetch_archive(*source, reader, archive, {}, options));
  if (report.replaced) return network_error("the archive was replaced meanwhile");

  // Every chunk up to the levels that came.
  DecodeOptions decode;
  decode.next_step = [&report, chunk = uint32_t{0}]() mutable -> std::optional<DecodeStep> {
    if (chunk == report.actions.size()) return std::nullopt;
    const DecodeStep step{chunk, report.actions[chunk].levels};
    ++chunk;
    return step;
  };
  KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(out, /*overwrite=*/true));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t bytes, restore_file(reader, decode, *file));
  KVPACK_RETURN_IF_ERROR(file->commit());
  std::printf("%s: %llu bytes, %llu over the network in %u ranges after the first\n", out,
              static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(report.network_bytes),
              report.ranges);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: fetch_context URL OUT SECONDS\n");
    return 2;
  }
  const Status status = fetch(argv[1], argv[2], std::atof(argv[3]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().message.c_str());
  return status.ok() ? 0 : 1;
}
