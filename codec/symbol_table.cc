// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "codec/entropy_tables.h"

namespace kvpack {
namespace {

using TableSet = std::array<std::array<SymbolTable, kSymbolScales>, kShapes>;

std::unique_ptr<const TableSet> unpack_tables() {
  auto tables = std::make_unique<TableSet>();
  for (int shape = 0; shape < kShapes; ++shape) {
    for (int scale = 0; scale < kSymbolScales; ++scale) {
      SymbolTable& table = (*tables)[shape][scale];
      uint16_t sum = 0;
      for (int i = 0; i < 16; ++i) {
        table.cumulative[i] = sum;
        for (int n = 0; n < kSymbolFrequencies[shape][scale][i]; ++n)
          table.symbol_of_slot[sum++] = static_cast<uint8_t>(i);
      }
      table.cumulative[16] = sum;
    }
  }
  return tables;
}

}  // namespace

const SymbolTable& symbol_table(int shape, int scale) {
  static const std::unique_ptr<const TableSet> kTables = unpack_tables();
  return (*kTables)[shape][scale];
}

}  // namespace kvpack
