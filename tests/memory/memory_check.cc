// SPDX-License-Identifier: Apache-2.0
// Encodes and decodes made-up contexts of growing length with the kvpack program and checks its peak memory:
//
//   decode to a file: 256 MiB + one chunk of all layers
//   encode: the same + what the KLTs need (8 bytes per element of every head's matrix)
//
// and, from 16K tokens on, that time grows no faster than the context. Prints a table.
//
//   kvpack_memory_check --kvpack PROGRAM --folder FOLDER --tokens N[,N...] [--encode OPTION]...
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "tests/memory/program_usage.h"
#include "tests/memory/streamed_context.h"

namespace kvpack::test {
namespace {

constexpr uint64_t kBaseBytes = 256ull << 20;
constexpr uint64_t kChunkTokens = 256;
// Time per token may be this much above that of a context a quarter as long: other programs run beside this one.
constexpr double kTimeTolerance = 1.5;
constexpr uint32_t kFewestTokensToTime = 16384;

struct Arguments {
  std::string kvpack;
  std::filesystem::path folder;
  std::vector<uint32_t> tokens;
  std::vector<std::string> encode;
};

struct Row {
  ContextShape shape;
  uint64_t archive_bytes = 0;
  ProgramUsage encode;
  ProgramUsage decode;
};

uint64_t decode_bound(const ContextShape& shape) { return kBaseBytes + kChunkTokens * shape.token_bytes(); }
uint64_t encode_bound(const ContextShape& shape) {
  return decode_bound(shape) + uint64_t{shape.layers} * 2 * shape.kv_heads * shape.head_dim * shape.head_dim * 8;
}

double mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// Removes what it names, whatever happens.
struct Scratch {
  std::filesystem::path context, model, archive, restored;
  explicit Scratch(const std::filesystem::path& folder)
      : context(folder / "memory-context.bin"),
        model(folder / "memory-model.json"),
        archive(folder / "memory.kvp"),
        restored(folder / "memory-restored.bin") {}
  ~Scratch() {
    std::error_code ignored;
    for (const auto& path : {context, model, archive, restored}) std::filesystem::remove(path, ignored);
  }
};

Result<Row> measure(const Arguments& arguments, const ContextShape& shape) {
  const Scratch scratch(arguments.folder);
  // The context, its copy, and an archive and its spilled tiles of a quarter each; with some to spare.
  const uint64_t needed = 3 * shape.value_bytes();
  const uint64_t free_bytes = std::filesystem::space(arguments.folder).available;
  if (free_bytes < needed) {
    return io_error(
        fmt::format("{}: {:.0f} MiB free, {:.0f} needed", arguments.folder.string(), mib(free_bytes), mib(needed)));
  }
  KVPACK_RETURN_IF_ERROR(write_context(shape, scratch.context));
  KVPACK_RETURN_IF_ERROR(write_context_model(shape, scratch.model));
  Row row;
  row.shape = shape;
  std::vector<std::string> encode = {arguments.kvpack, "encode", scratch.context, "-m", scratch.model, "-q", "-f", "-o",
                                     scratch.archive};
  encode.insert(encode.end(), arguments.encode.begin(), arguments.encode.end());
  KVPACK_ASSIGN_OR_RETURN(row.encode, run_program(encode));
  row.archive_bytes = std::filesystem::file_size(scratch.archive);
  KVPACK_ASSIGN_OR_RETURN(
      row.decode, run_program({arguments.kvpack, "decode", scratch.archive, "-q", "-f", "-o", scratch.restored}));
  if (std::filesystem::file_size(scratch.restored) != std::filesystem::file_size(scratch.context)) {
    return corrupt("the restored file is not as long as the context");
  }
  return row;
}

bool print_row(const Row& row) {
  const auto rate = [&](const ProgramUsage& usage) { return mib(row.shape.value_bytes()) / usage.seconds; };
  std::printf("%9u %9.0f %9.1f | %8.2f s %6.0f MiB/s %6.0f of %4.0f MiB | %8.2f s %6.0f MiB/s %6.0f of %4.0f MiB\n",
              row.shape.tokens, mib(row.shape.value_bytes()), mib(row.archive_bytes), row.encode.seconds,
              rate(row.encode), mib(row.encode.peak_bytes), mib(encode_bound(row.shape)), row.decode.seconds,
              rate(row.decode), mib(row.decode.peak_bytes), mib(decode_bound(row.shape)));
  std::fflush(stdout);
  const bool ok = row.encode.peak_bytes <= encode_bound(row.shape) && row.decode.peak_bytes <= decode_bound(row.shape);
  if (!ok) std::printf("          above the bound\n");
  return ok;
}

// CPU time per token against the row before, which other programs disturb less than the clock.
bool grows_linearly(const Row& before, const Row& row) {
  if (before.shape.tokens < kFewestTokensToTime) return true;
  const double factor = static_cast<double>(row.shape.tokens) / before.shape.tokens;
  const bool ok = row.encode.cpu_seconds <= kTimeTolerance * factor * before.encode.cpu_seconds &&
                  row.decode.cpu_seconds <= kTimeTolerance * factor * before.decode.cpu_seconds;
  if (!ok)
    std::printf("          more than linear: %.2f and %.2f s of CPU time\n", row.encode.cpu_seconds,
                row.decode.cpu_seconds);
  return ok;
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--kvpack") arguments.kvpack = value;
    if (name == "--folder") arguments.folder = value;
    if (name == "--encode") arguments.encode.push_back(value);
    std::istringstream list(name == "--tokens" ? value : "");
    for (std::string count; std::getline(list, count, ',');) {
      arguments.tokens.push_back(static_cast<uint32_t>(std::stoul(count)));
    }
  }
  return !arguments.kvpack.empty() && !arguments.folder.empty() && !arguments.tokens.empty();
}

int check(const Arguments& arguments) {
  std::printf("   tokens   f16 MiB   kvp MiB | encode              peak | decode              peak\n");
  bool ok = true;
  Row before;
  before.shape.tokens = 0;
  for (const uint32_t tokens : arguments.tokens) {
    ContextShape shape;
    shape.tokens = tokens;
    const auto row = measure(arguments, shape);
    if (!row.ok()) {
      std::fprintf(stderr, "kvpack_memory_check: %s\n", row.error().message.c_str());
      return 1;
    }
    ok = print_row(*row) && grows_linearly(before, *row) && ok;
    before = *row;
  }
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace kvpack::test

int main(int argc, char** argv) {
  kvpack::test::Arguments arguments;
  if (!kvpack::test::parse(argc, argv, arguments)) {
    std::fprintf(
        stderr, "usage: kvpack_memory_check --kvpack PROGRAM --folder FOLDER --tokens N[,N...] [--encode OPTION]...\n");
    return 2;
  }
  return kvpack::test::check(arguments);
}
