// SPDX-License-Identifier: Apache-2.0
// An Engine that recomputes a context's front chunk by chunk, in a thread, while the fetcher loads from the back.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "net/engine/engine.h"
#include "net/fetcher.h"

namespace kvpack {

class EngineFront : public FrontComputer {
 public:
  // `tokens` of the whole context, `chunk_ends` the index after each chunk's last token. `assumed_tokens_per_s` until
  // the engine has been measured. `engine` must outlive this, and is used by nobody else meanwhile.
  EngineFront(Engine& engine, std::vector<int32_t> tokens, std::vector<uint32_t> chunk_ends,
              double assumed_tokens_per_s);
  ~EngineFront() override;

  // By the clock, calls and all: what a plan has to reckon with.
  double prefill_tokens_per_s() const override;
  void begin_chunk(uint32_t chunk) override;
  Result<uint32_t> computed_chunks() override;

 private:
  void work();

  Engine& engine_;
  const std::vector<int32_t> tokens_;
  const std::vector<uint32_t> chunk_ends_;
  const double assumed_tokens_per_s_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<uint32_t> wanted_;
  uint32_t computed_ = 0;
  double tokens_computed_ = 0;
  double seconds_ = 0;
  double chunk_tokens_ = 0;  // of the chunk under way, 0: none
  std::chrono::steady_clock::time_point chunk_begin_;
  Status status_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace kvpack
