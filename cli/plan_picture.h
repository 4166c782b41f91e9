// SPDX-License-Identifier: Apache-2.0
// The timeline of a fetch as SVG: chunks from top to bottom, time from left to right, a mark when a level arrived or
// the engine was done.
#pragma once

#include <string>

#include "net/simulator.h"

namespace kvpack::cli {

std::string plan_picture(const Scenario& scenario, const Outcome& outcome, const std::string& title);

}  // namespace kvpack::cli
