// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_methods.h"

#include <fmt/format.h>

#include <cmath>

#include "cli/quantities.h"
#include "cli/tensor_distance.h"
#include "formats/byte_io.h"

namespace kvpack::cli {
namespace {

// The file's container around other values.
Result<Bytes> file_with(const BenchFile& file, const KvTensor& tensor) {
  KvReadOptions options;
  options.facts = file.facts;
  KVPACK_ASSIGN_OR_RETURN(const KvFileImage image, open_container(file.file.format, file.file.container, options));
  std::vector<float> row;
  for (size_t p = 0; p < image.planes.size(); ++p) {
    const KvView& from = tensor.planes[p].view;
    row.resize(from.channels());
    for (uint32_t token = 0; token < from.tokens; ++token) {
      load_values(from, token, 1, row.data());
      store_values(image.planes[p], token, 1, row.data());
    }
  }
  return std::move(*image.bytes);
}

Status set_error(const KvTensor& original, const KvTensor& decoded, BenchPoint& point) {
  KVPACK_ASSIGN_OR_RETURN(const std::vector<PlaneDistance> planes, distance_between(original, decoded));
  Distance all;
  for (const PlaneDistance& plane : planes) all += plane.distance;
  point.relative_error = all.relative_l2();
  return {};
}

void set_bytes(const BenchFile& file, uint64_t bytes, BenchPoint& point) {
  point.bytes = bytes;
  point.bits_per_value = per(8 * static_cast<double>(bytes), static_cast<double>(file.file.tensor.values()));
}

EncodeOptions options_of(const BenchFile& file, const OwnMethod& method) {
  EncodeOptions options;
  options.quality = method.quality;
  options.bits_per_value = method.bits;
  options.threads = file.threads;
  options.creator = "kvpack " KVPACK_VERSION;
  if (method.profile != nullptr) {
    options.profile = &method.profile->profile;
    options.profile_hash = method.profile->hash;
  } else if (file.measured) {
    options.profile = &*file.measured;
    options.store_basis = true;
  }
  return options;
}

}  // namespace

Result<BenchOutcome> bench_own(const BenchFile& file, const OwnMethod& method) {
  BenchOutcome outcome;
  BenchPoint& point = outcome.point;
  point.family = method.profile != nullptr ? kOwnProfileFamily : kOwnFamily;
  point.name = point.family + " " +
               (method.bits ? fmt::format("{:g} bits", *method.bits) : std::string(quality_name(method.quality)));
  point.recipe = method.profile != nullptr ? "with a profile, which is not counted"
                 : file.measured           ? "without a profile: the context's last tokens taken through the model"
                                           : "without a profile, nothing measured";
  const auto stored_bytes = static_cast<double>(file.file.tensor.raw_bytes());
  const EncodeOptions options = options_of(file, method);
  MemorySink sink;
  Stopwatch watch;
  KVPACK_ASSIGN_OR_RETURN(const EncodeReport report, encode_archive(file.file, file.facts, options, sink));
  const double encode_seconds = watch.lap();
  // A search encodes several times, which is no measure of speed.
  if (report.passes == 1) point.encode_bytes_per_s = per(stored_bytes, encode_seconds * file.threads);
  MemorySource source(sink.bytes());
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(source));
  DecodeOptions decoding;
  decoding.threads = file.threads;
  decoding.profile = options.store_basis ? nullptr : options.profile;
  watch.lap();
  KVPACK_ASSIGN_OR_RETURN(outcome.restored, restore_file(reader, decoding));
  const double decode_seconds = watch.lap();
  point.decode_bytes_per_s = per(stored_bytes, decode_seconds * file.threads);
  point.seconds = encode_seconds + decode_seconds;
  set_bytes(file, report.archive_bytes, point);
  point.relative_error = report.levels.empty() ? 0 : report.levels.back().relative_error;
  if (!method.bits && method.quality == Quality::kHigh) {
    KVPACK_ASSIGN_OR_RETURN(point.layering, measure_layering(file.file, file.facts, options, report));
  }
  return outcome;
}

Result<BenchOutcome> bench_preset(const BenchFile& file, const Preset& preset, const Profile* profile) {
  BenchOutcome outcome;
  outcome.point.name = preset.name;
  outcome.point.family = preset.family;
  outcome.point.recipe = preset.recipe;
  Stopwatch watch;
  auto result = preset.run({file.file, file.facts, profile, file.threads});
  if (!result.ok()) return result.error().within(preset.name);
  outcome.point.seconds = watch.lap();
  set_bytes(file, result->bytes, outcome.point);
  KVPACK_RETURN_IF_ERROR(set_error(file.file.tensor, result->tensor, outcome.point));
  KVPACK_ASSIGN_OR_RETURN(outcome.restored, file_with(file, result->tensor));
  return outcome;
}

}  // namespace kvpack::cli
