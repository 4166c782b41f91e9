// SPDX-License-Identifier: Apache-2.0
// What encode prints when it is done, for people and for programs.
#pragma once

#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/encode.h"
#include "codec/archive_codec.h"

namespace kvpack::cli {

struct EncodeTimes {
  double read_seconds = 0;
  double encode_seconds = 0;
  double write_seconds = 0;
};

struct EncodeSummary {
  const EncodeArguments& arguments;
  const KvFile& file;
  const EncodeReport& report;
  EncodeTimes times;
  std::vector<std::string> notes;
};

// The report's notes, and what a user without --model should know.
std::vector<std::string> notes_of(const EncodeReport& report, const ModelFacts* model);

void print_summary(const EncodeSummary& summary, const Console& console);
nlohmann::ordered_json json_of(const EncodeSummary& summary);

}  // namespace kvpack::cli
