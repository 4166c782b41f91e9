// SPDX-License-Identifier: Apache-2.0
// Byte ranges of an archive, wherever it is: a plain path, file://, http(s)://, s3://. Ranges are read several at a
// time and delivered as they arrive, so that decoding can begin before a range ends. What arrives belongs to one
// version of the archive: another one (other size, other ETag) is reported, never mixed in.
//
// A source belongs to the thread that calls poll(); callbacks run inside poll(). Only wake() may be called from
// elsewhere.
//
//   auto source = open_range_source("https://host/ctx.kvp", options);   // one request: the first 64 KiB
//   RangeByteSource bytes(**source);
//   auto reader = ArchiveReader::open(bytes);                           // no further request up to 128K tokens
//   (*source)->start({.range = {offset, count}, .on_bytes = ..., .on_done = ...});
//   while ((*source)->pending() > 0) (*source)->poll(deadline);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "formats/archive.h"
#include "net/http_client.h"
#include "net/retry.h"
#include "net/s3_location.h"

namespace kvpack {

struct ByteRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct RangeOutcome {
  Status status;  // ok: every byte was delivered
  // The archive is no longer the one that was opened (status is network then): open it again to start over.
  bool replaced = false;
  bool cancelled = false;
  uint64_t bytes = 0;     // delivered, over all attempts
  uint32_t attempts = 0;  // requests sent
  NetTime started{};      // when the first attempt was sent, after any wait for a free slot
  NetTime first_byte{};   // of the first attempt that delivered one; `finished` if none did
  NetTime finished{};
};

struct RangeRequest {
  ByteRange range;  // within size(), not empty
  // In order, each byte once, retries included; checked against the response's head before the call. An error ends the
  // range with that error.
  std::function<Status(ByteSpan)> on_bytes;
  // Once, whatever happens.
  std::function<void(const RangeOutcome&)> on_done;
  NetTime deadline = kNever;  // no retry begins that cannot end before it
};

using RangeId = uint64_t;

class RangeSource {
 public:
  virtual ~RangeSource() = default;

  virtual uint64_t size() const = 0;
  // The version as a strong ETag, or empty if the server gives none (then only the size guards against replacement).
  virtual std::string etag() const = 0;
  virtual std::string name() const = 0;    // for messages: no query, no credentials
  virtual std::string origin() const = 0;  // "https://host:port", "file": whose throughput an estimate is about
  // The first min(size, opening_bytes) bytes, from the opening request.
  virtual ByteSpan head() const = 0;

  virtual RangeId start(RangeRequest request) = 0;
  // on_done follows inside the next poll(), with what was delivered so far. Unknown ids are ignored.
  virtual void cancel(RangeId id) = 0;
  // Until something was delivered or `until` has come; at once when nothing is under way.
  virtual void poll(NetTime until) = 0;
  virtual void wake() = 0;
  virtual size_t pending() const = 0;
  // Requests on the wire since the source was opened, the opening one included; for a file, reads.
  virtual HttpCounters counters() const = 0;
};

struct RangeSourceOptions {
  HttpOptions http;
  S3Options s3;
  RetryOptions retry;
  uint64_t opening_bytes = kOpeningBytes;
  NetTime deadline = kNever;  // of the opening request
};

// Opens `location` and reads its first bytes. Errors: network, io, invalid_argument (a URL that cannot be).
Result<std::unique_ptr<RangeSource>> open_range_source(const std::string& location, const RangeSourceOptions& options);

// Blocking reads on a range source, for ArchiveReader. The head is served from memory.
class RangeByteSource : public ByteSource {
 public:
  explicit RangeByteSource(RangeSource& source, NetTime deadline = kNever) : source_(source), deadline_(deadline) {}
  uint64_t size() const override { return source_.size(); }
  Result<Bytes> read(uint64_t offset, uint64_t count) override;
  std::string name() const override { return source_.name(); }
  // Whether a read failed because the archive was replaced.
  bool replaced() const { return replaced_; }

 private:
  RangeSource& source_;
  NetTime deadline_;
  bool replaced_ = false;
};

}  // namespace kvpack
