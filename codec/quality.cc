// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "codec/archive_codec.h"

namespace kvpack {

std::string_view quality_name(Quality quality) {
  switch (quality) {
    case Quality::kLossless:
      return "lossless";
    case Quality::kHigh:
      return "high";
    case Quality::kMedium:
      return "medium";
    case Quality::kLow:
      return "low";
  }
  return "?";
}

Result<Quality> quality_from_name(std::string_view name) {
  for (const Quality quality : {Quality::kLossless, Quality::kHigh, Quality::kMedium, Quality::kLow}) {
    if (name == quality_name(quality)) return quality;
  }
  return invalid_argument(fmt::format("unknown quality '{}'; known: lossless, high, medium, low", name));
}

Result<TransformChoice> transform_from_name(std::string_view name) {
  if (name == "auto") return TransformChoice::kAuto;
  if (name == "none") return TransformChoice::kNone;
  if (name == "hadamard") return TransformChoice::kHadamard;
  if (name == "klt") return TransformChoice::kKlt;
  return invalid_argument(fmt::format("unknown transform '{}'; known: auto, none, hadamard, klt", name));
}

}  // namespace kvpack
