// SPDX-License-Identifier: Apache-2.0
#include "net/engine/engine_front.h"

#include <chrono>

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
  return seconds_ > 0 ? tokens_computed_ / seconds_ : assumed_tokens_per_s_;
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
    lock.unlock();
    // All tokens up to the chunk's end: the engine reuses what it has.
    const auto begin = std::chrono::steady_clock::now();
    const auto report = engine_.prefill(std::span(tokens_).first(chunk_ends_[chunk]));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    lock.lock();
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
