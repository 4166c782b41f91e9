// SPDX-License-Identifier: Apache-2.0
// Archives of released format versions decode to the same values for ever. Beside golden/NAME.kvp lies
// golden/NAME.expected: a line "level N HASH" per level (and "file HASH", the restored file at the best level), where
// HASH is xxh3-128 of all planes' stored rows in order. A new archive without expectations fails and prints them.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/checksum.h"
#include "tests/pack.h"

using namespace kvpack;
using namespace kvpack::test;
namespace fs = std::filesystem;

namespace {

std::string hash_of(const KvTensor& tensor) {
  ByteWriter all;
  for (const KvPlane& plane : tensor.planes) {
    Bytes rows(plane.view.tokens * plane.view.packed_row_bytes());
    load_raw(plane.view, 0, plane.view.tokens, rows.data());
    all.write_bytes(rows);
  }
  return xxh3_128_hex(all.bytes());
}

std::string decoded_hashes(const Bytes& archive) {
  MemorySource source(archive);
  const ArchiveReader reader = must(ArchiveReader::open(source));
  must(reader.verify());
  std::optional<Profile> profile;
  if (reader.has_section(SectionKind::kProfile)) profile = must(read_embedded_profile(reader));
  DecodeOptions best;
  best.profile = profile ? &*profile : nullptr;
  std::string lines;
  for (uint32_t level = 0; level < reader.directory().levels; ++level) {
    DecodeOptions options = best;
    options.level = level;
    lines += fmt::format("level {} {}\n", level, hash_of(must(decode_tensor(reader, options, nullptr))));
  }
  return lines + fmt::format("file {}\n", xxh3_128_hex(must(restore_file(reader, best))));
}

}  // namespace

TEST_CASE("golden archives decode to what they always decoded to") {
  const fs::path folder = KVPACK_TESTS_DIR "/golden";
  std::vector<fs::path> archives;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".kvp") archives.push_back(entry.path());
  }
  CHECK_FALSE(archives.empty());
  std::sort(archives.begin(), archives.end());
  for (const fs::path& path : archives) {
    CAPTURE(path);
    const std::string hashes = decoded_hashes(must(read_whole_file(path.string())));
    fs::path expected_path = path;
    expected_path.replace_extension(".expected");
    if (!fs::exists(expected_path)) {
      FAIL_CHECK("no " << expected_path.filename().string() << "; it would read:\n" << hashes);
      continue;
    }
    const Bytes expected = must(read_whole_file(expected_path.string()));
    CHECK(hashes == as_text(expected));
  }
}
