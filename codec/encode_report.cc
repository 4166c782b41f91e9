// SPDX-License-Identifier: Apache-2.0
#include "codec/encode_report.h"

#include <algorithm>
#include <cmath>

namespace kvpack {

void report_tiles(const std::vector<std::vector<EncodedTile>>& tiles, uint32_t levels, Measuring measuring,
                  EncodeReport& report) {
  report.raw_tiles = 0;
  report.non_finite = 0;
  report.max_error.reset();
  double max_error = 0;
  bool all_exact = true;
  report.levels.assign(levels, {});
  std::vector<double> squared_error(levels, 0.0);
  report.squared_values = 0;
  for (const auto& of_chunk : tiles) {
    for (const EncodedTile& tile : of_chunk) {
      report.raw_tiles += !tile.quantized && levels > 1;
      report.non_finite += tile.exact_values;
      report.squared_values += tile.squared_values;
      all_exact = all_exact && !tile.quantized;
      if (measuring == Measuring::kNone) continue;
      for (uint32_t level = 0; level < levels; ++level) squared_error[level] += tile.distortion[level].squared_error;
      max_error = std::max(max_error, tile.distortion.back().max_error);
    }
  }
  if (measuring == Measuring::kAll || all_exact) report.max_error = max_error;
  for (uint32_t level = 0; level < levels && report.squared_values > 0; ++level) {
    report.levels[level].relative_error = std::sqrt(squared_error[level] / report.squared_values);
  }
}

void report_sizes(const KvFile& file, const ArchiveSizes& sizes, EncodeReport& report) {
  report.archive_bytes = sizes.bytes;
  report.values = file.tensor.values();
  report.value_bytes = file.tensor.raw_bytes();
  const auto bits_per_value = [&](uint64_t bytes) {
    return report.values > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(report.values) : 0.0;
  };
  for (size_t level = 0; level < report.levels.size(); ++level) {
    report.levels[level].bytes = sizes.level_bytes[level];
    report.levels[level].cumulative_bytes = sizes.level_ends[level];
    report.levels[level].bits_per_value = bits_per_value(sizes.level_ends[level]);
  }
  report.bits_per_value = bits_per_value(sizes.bytes);
  report.ratio = static_cast<double>(report.input_bytes) / static_cast<double>(std::max<uint64_t>(1, sizes.bytes));
}

}  // namespace kvpack
