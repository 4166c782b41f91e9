// SPDX-License-Identifier: Apache-2.0
// One loop over independent items on several threads. Items write only their own slots, so results do not depend on the
// number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace kvpack {

// Calls body(i) for every i in [0, count) on `threads` threads (0: one per core).
template <typename Body>
void parallel_for(uint64_t count, unsigned threads, const Body& body) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  if (threads > count) threads = static_cast<unsigned>(count);
  if (threads <= 1) {
    for (uint64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<uint64_t> next{0};
  const auto work = [&] {
    for (uint64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i);
  };
  std::vector<std::jthread> workers;
  for (unsigned n = 1; n < threads; ++n) workers.emplace_back(work);
  work();
}

}  // namespace kvpack
