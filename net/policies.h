// SPDX-License-Identifier: Apache-2.0
// How others decide, and how we do, for the simulator. Each is the published rule on our archives: "level n of a chunk"
// is its levels 0 to n, so that every policy has the same choices at the same price.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "net/simulator.h"

namespace kvpack {

// make_plan(), asked again at every event. `recompute` overrides the scenario's.
std::unique_ptr<Policy> planner_policy(std::optional<RecomputeMode> recompute = std::nullopt);

// CacheGen (Liu et al., SIGCOMM 2024, section 5.3): before each chunk, the throughput of the last one is taken for that
// of the rest; text (recompute) if that meets the deadline, else the best level at which everything left does, else the
// lowest.
std::unique_ptr<Policy> cachegen_policy();

// The same choice of a level with the smaller of a fast and a slow moving average of throughput, times `safety`, as
// adaptive video players do (dash.js's ThroughputRule, hls.js's EWMA estimator); no text.
std::unique_ptr<Policy> min_ewma_policy(double safety);

// RobustMPC (Yin et al., SIGCOMM 2015): harmonic mean of the last five throughputs over 1 + their largest recent
// prediction error; of all level sequences for the next five chunks the one with least distortion, the rest at the
// level that then fits.
std::unique_ptr<Policy> robust_mpc_policy();

// Cake (Jin et al., ICML 2025): the engine computes from the head, the link loads whole chunks from the tail, until
// they meet.
std::unique_ptr<Policy> cake_policy();

// SparKV (2026): every chunk goes to the engine or the link, whichever would have it done first by their measured
// speeds; assignments are made anew as chunks complete.
std::unique_ptr<Policy> sparkv_policy();

// KVServe (SIGCOMM 2026): compress if bandwidth < (1 - 1/ratio) x codec speed, else send raw; the profile is the best
// whose transfer meets the deadline at the bandwidth measured at the start, and it stays.
std::unique_ptr<Policy> kvserve_policy();

// All of them, ours first: with an engine that is idle, and sparing it.
std::vector<std::unique_ptr<Policy>> all_policies();

}  // namespace kvpack
