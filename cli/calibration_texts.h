// SPDX-License-Identifier: Apache-2.0
// The texts of samples/calibration, which are part of the program: profiles are trained on them unless others are
// given.
#pragma once

#include <string>
#include <vector>

namespace kvpack::cli {

std::vector<std::string> calibration_texts();

}  // namespace kvpack::cli
