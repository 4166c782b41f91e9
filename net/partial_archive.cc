// SPDX-License-Identifier: Apache-2.0
#include "net/partial_archive.h"

#include "net/fetch_layout.h"

namespace kvpack {
namespace {

// Longer ranges are cut, so that several connections carry them.
constexpr uint64_t kRangeBytes = 4ull << 20;
constexpr size_t kRangesUnderWay = 4;

}  // namespace

Result<Bytes> PartialArchive::Rest::read(uint64_t offset, uint64_t count) {
  auto bytes = remote_.read(offset, count);
  if (bytes.ok() && offset + count > archive_.source_->head().size()) archive_.bytes_read_ += count;
  return bytes;
}

Result<std::unique_ptr<PartialArchive>> PartialArchive::open(const std::string& location,
                                                             const RangeSourceOptions& options) {
  auto archive = std::unique_ptr<PartialArchive>(new PartialArchive());
  KVPACK_ASSIGN_OR_RETURN(archive->source_, open_range_source(location, options));
  const ByteSpan head = archive->source_->head();
  archive->bytes_read_ = head.size();
  archive->fetched_ = std::make_unique<FetchedArchive>(archive->source_->size(), archive->source_->name());
  archive->fetched_->add(0, Bytes(head.begin(), head.end()));
  archive->rest_ = std::make_unique<Rest>(*archive);
  archive->fetched_->set_fallback(archive->rest_.get());
  KVPACK_ASSIGN_OR_RETURN(ArchiveReader reader, ArchiveReader::open(*archive->fetched_));
  archive->reader_ = std::make_unique<ArchiveReader>(std::move(reader));
  const Directory& directory = archive->reader_->directory();
  archive->here_.assign(directory.levels, std::vector<bool>(directory.chunks.size()));
  return archive;
}

bool PartialArchive::is_here(uint32_t level, uint32_t chunk) const {
  const BlockEntry& block = reader_->directory().block(level, chunk);
  return here_[level][chunk] || block.bytes == 0 || block.offset + block.bytes <= source_->head().size();
}

Status PartialArchive::bring(const std::vector<RangeStep>& steps) {
  std::vector<RangeStep> missing;
  for (const RangeStep& step : steps) {
    for (uint32_t level = step.first_level; level < step.first_level + step.levels; ++level) {
      for (uint32_t chunk = step.first_chunk; chunk < step.first_chunk + step.chunks; ++chunk) {
        if (!is_here(level, chunk)) missing.push_back({level, 1, chunk, 1});
      }
    }
  }
  LayoutOptions layout;
  layout.split_bytes = kRangeBytes;
  std::vector<ByteRange> ranges;
  const std::vector<uint8_t> none(reader_->directory().chunks.size());
  for (const BlockRange& range : lay_out(reader_->directory(), missing, none, layout)) ranges.push_back(range.range);
  KVPACK_RETURN_IF_ERROR(bring_ranges(ranges));
  for (const RangeStep& block : missing) here_[block.first_level][block.first_chunk] = true;
  return {};
}

Status PartialArchive::bring_ranges(const std::vector<ByteRange>& ranges) {
  Status status;
  std::vector<RangeId> started;
  const auto start = [&](const ByteRange& range) {
    auto bytes = std::make_shared<Bytes>();
    RangeRequest request;
    request.range = range;
    request.on_bytes = [bytes](ByteSpan more) -> Status {
      bytes->insert(bytes->end(), more.begin(), more.end());
      return {};
    };
    request.on_done = [this, bytes, range, &status, &started](const RangeOutcome& outcome) {
      bytes_read_ += outcome.bytes;
      if (outcome.status.ok()) return fetched_->add(range.offset, std::move(*bytes));
      if (!status.ok()) return;
      status = outcome.status;
      for (const RangeId id : started) source_->cancel(id);
    };
    started.push_back(source_->start(std::move(request)));
  };
  for (size_t next = 0; source_->pending() > 0 || (status.ok() && next < ranges.size());) {
    while (status.ok() && next < ranges.size() && source_->pending() < kRangesUnderWay) start(ranges[next++]);
    source_->poll(kNever);
  }
  return status;
}

}  // namespace kvpack
