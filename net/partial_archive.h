// SPDX-License-Identifier: Apache-2.0
// An archive of which only some blocks are wanted, at a path or URL. It is opened by its first bytes; what is wanted
// next is brought in few ranges, several on their way at a time, and stays in memory.
//
//   auto archive = PartialArchive::open("https://host/ctx.kvp", options);
//   (*archive)->bring({{.first_level = 0, .levels = 1, .first_chunk = 0, .chunks = 7}});   // the base
//   decode_tensor((*archive)->reader(), {.level = 0}, &tokens);
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "net/fetched_archive.h"
#include "net/planner.h"
#include "net/range_source.h"

namespace kvpack {

class PartialArchive {
 public:
  // Errors: the source's, the archive's.
  static Result<std::unique_ptr<PartialArchive>> open(const std::string& location, const RangeSourceOptions& options);

  const ArchiveReader& reader() const { return *reader_; }
  // Waits until the blocks of these steps are here; those that are already are not asked for again. Reads of blocks
  // that nobody brought are requests of their own, one after the other. Errors: the source's.
  Status bring(const std::vector<RangeStep>& steps);
  // So much of the archive has been read, the opening included.
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  // What the reader reads that was not brought, counted.
  class Rest : public ByteSource {
   public:
    explicit Rest(PartialArchive& archive) : archive_(archive), remote_(*archive.source_) {}
    uint64_t size() const override { return remote_.size(); }
    std::string name() const override { return remote_.name(); }
    Result<Bytes> read(uint64_t offset, uint64_t count) override;

   private:
    PartialArchive& archive_;
    RangeByteSource remote_;
  };
  PartialArchive() = default;
  bool is_here(uint32_t level, uint32_t chunk) const;
  Status bring_ranges(const std::vector<ByteRange>& ranges);

  std::unique_ptr<RangeSource> source_;
  std::unique_ptr<FetchedArchive> fetched_;
  std::unique_ptr<Rest> rest_;
  std::unique_ptr<ArchiveReader> reader_;
  std::vector<std::vector<bool>> here_;  // [level][chunk]
  uint64_t bytes_read_ = 0;
};

}  // namespace kvpack
