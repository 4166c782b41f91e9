// SPDX-License-Identifier: Apache-2.0
// Sections of an archive that other folders ask for by name. The identity section is in identity.cc.
#include <fmt/format.h>

#include <cstring>

#include "codec/archive_codec.h"
#include "codec/profile_file.h"

namespace kvpack {

Result<Profile> read_embedded_profile(const ArchiveReader& reader) {
  if (!reader.has_section(SectionKind::kProfile)) return invalid_argument("the archive carries no profile");
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, reader.section(SectionKind::kProfile));
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  if (profile_hash(bytes) != identity.profile_hash) return corrupt("the embedded profile is not the one that is named");
  return read_profile(bytes, "the embedded profile");
}

Result<std::vector<int32_t>> read_tokens(const ArchiveReader& reader) {
  std::vector<int32_t> tokens;
  if (!reader.has_section(SectionKind::kTokens)) return tokens;
  KVPACK_ASSIGN_OR_RETURN(Bytes raw, reader.section(SectionKind::kTokens));
  if (raw.size() % sizeof(int32_t) != 0) return corrupt(fmt::format("token section has {} bytes", raw.size()));
  tokens.resize(raw.size() / sizeof(int32_t));
  std::memcpy(tokens.data(), raw.data(), raw.size());
  return tokens;
}

}  // namespace kvpack
