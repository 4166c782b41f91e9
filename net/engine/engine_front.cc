// SPDX-License-Identifier: Apache-2.0
#include "net/engine/engine_front.h"

#include <algorithm>

namespace kvpack {

EngineFront::EngineFront(Engine& engine, std::vector<int32_t> tokens, std::vector<uint32_t> chunk_ends,
                         double assumed_tokens_per_s)
    : engine_(engine),
      tokens_(std::move(tokens)),
      chunk_ends_(std::move(chunk_ends)),
      assumed_tokens_per_s_(assumed_tokens_per_s),
      thread_([this] { work(); }) {}

EngineFront::~EngineFront() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

double EngineFront::prefill_tokens_per_s() const {
  const std::lock_guard lock(mutex_);
  const double known = seconds_ > 0 ? tokens_computed_ / seconds_ : assumed_tokens_per_s_;
  if (chunk_tokens_ == 0) return known;
  // A chunk that takes longer than it should says so before it is done.
  const std::chrono::duration<double> under_way = std::chrono::steady_clock::now() - chunk_begin_;
  return std::min(known, (tokens_computed_ + chunk_tokens_) / (seconds_ + under_way.count()));
}

void EngineFront::begin_chunk(uint32_t chunk) {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = chunk;
  }
  changed_.notify_all();
}

Result<uint32_t> EngineFront::computed_chunks() {
  const std::lock_guard lock(mutex_);
  KVPACK_RETURN_IF_ERROR(status_);
  return computed_;
}

void EngineFront::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ended_ || wanted_; });
    if (ended_) return;
    const uint32_t chunk = *std::exchange(wanted_, std::nullopt);
    if (chunk >= chunk_ends_.size() || chunk_ends_[chunk] > tokens_.size()) {
      status_ = invalid_argument("the archive has no token ids for what is to be recomputed");
      continue;
    }
    const uint32_t chunk_begin = chunk > 0 ? chunk_ends_[chunk - 1] : 0;
    chunk_tokens_ = chunk_ends_[chunk] - chunk_begin;
    chunk_begin_ = std::chrono::steady_clock::now();
    lock.unlock();
    // All tokens up to the chunk's end: the engine reuses what it has.
    const auto report = engine_.prefill(std::span(tokens_).first(chunk_ends_[chunk]));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - chunk_begin_;
    lock.lock();
    chunk_tokens_ = 0;
    if (report.ok()) {
      computed_ = chunk + 1;
      tokens_computed_ += report->computed_tokens;
      seconds_ += took.count();
    } else {
      status_ = report.error();
    }
  }
}

}  // namespace kvpack
