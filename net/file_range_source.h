// SPDX-License-Identifier: Apache-2.0
// Ranges of a local archive, behind the same interface as remote ones.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "net/range_source.h"

namespace kvpack {

class FileRangeSource : public RangeSource {
 public:
  static Result<std::unique_ptr<FileRangeSource>> open(const std::string& path, const RangeSourceOptions& options);

  uint64_t size() const override { return file_->size(); }
  std::string etag() const override { return ""; }
  std::string name() const override { return file_->name(); }
  std::string origin() const override { return "file"; }
  ByteSpan head() const override { return head_; }
  RangeId start(RangeRequest request) override;
  void cancel(RangeId id) override;
  // Reads one slice of the oldest range and delivers it.
  void poll(NetTime until) override;
  void wake() override {}  // poll() never waits
  size_t pending() const override { return transfers_.size(); }
  HttpCounters counters() const override { return counters_; }

 private:
  struct Transfer {
    RangeId id = 0;
    RangeRequest request;
    RangeOutcome outcome;
  };
  FileRangeSource() = default;
  Status read_slice(Transfer& transfer);

  std::unique_ptr<ByteSource> file_;
  Bytes head_;
  HttpCounters counters_;
  RangeId next_id_ = 1;
  std::deque<std::unique_ptr<Transfer>> transfers_;
};

}  // namespace kvpack
