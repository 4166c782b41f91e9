// SPDX-License-Identifier: Apache-2.0
// pack_file IN OUT.kvp [MODEL]: a KV file becomes an archive, and the archive gives single layers back.
// IN is a llama.cpp state, safetensors or npy; MODEL a GGUF, config.json or model.json (without it the archive is
// larger). Exits with 0 if what the archive gives back is as close as `medium` should be.
#include <cmath>
#include <cstdio>
#include <optional>

#include "codec/archive_codec.h"

namespace {

using namespace kvpack;

// Reads, encodes, and writes OUT so that it appears whole or not at all.
Result<EncodeReport> pack(const char* in, const char* out, const char* model) {
  std::optional<ModelFacts> facts;
  if (model != nullptr) {
    KVPACK_ASSIGN_OR_RETURN(facts, read_model_facts(model));
  }
  KVPACK_ASSIGN_OR_RETURN(Bytes bytes, read_whole_file(in));
  KvReadOptions read_options;
  read_options.facts = facts ? &*facts : nullptr;
  KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_file(std::move(bytes), read_options));
  if (file.facts) facts = file.facts;  // the same facts in the file's channel order

  EncodeOptions options;
  options.quality = Quality::kMedium;
  options.creator = "pack_file";
  KVPACK_ASSIGN_OR_RETURN(const auto archive, AtomicFile::create(out, /*overwrite=*/true));
  KVPACK_ASSIGN_OR_RETURN(const EncodeReport report,
                          encode_archive(file, facts ? &*facts : nullptr, options, *archive));
  KVPACK_RETURN_IF_ERROR(archive->commit());
  return report;
}

// One layer's keys and values of the first 64 tokens; nothing else of the archive is decoded.
Result<KvTensor> unpack_layer(const char* path, uint32_t layer) {
  KVPACK_ASSIGN_OR_RETURN(const auto source, open_file_source(path));
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(*source));
  DecodeOptions options;
  options.layers = {layer, layer + 1};
  options.positions = {0, 64};
  return decode_tensor(reader, options, /*tokens=*/nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: pack_file IN OUT.kvp [MODEL]\n");
    return 2;
  }
  const auto report = pack(argv[1], argv[2], argc == 4 ? argv[3] : nullptr);
  if (!report.ok()) {
    std::fprintf(stderr, "pack_file: %s\n", report.error().message.c_str());
    return 1;
  }
  const double error = report->levels.back().relative_error;
  std::printf("%s: %llu bytes, ratio %.2f, %.3f bits per value, relative error %.4f\n", argv[2],
              static_cast<unsigned long long>(report->archive_bytes), report->ratio, report->bits_per_value, error);

  const auto layer = unpack_layer(argv[2], 0);
  if (!layer.ok()) {
    std::fprintf(stderr, "pack_file: %s\n", layer.error().message.c_str());
    return 1;
  }
  for (const KvPlane& plane : layer->planes) {
    std::printf("layer %u %s: %u tokens x %u heads x %u\n", plane.layer, side_name(plane.side).data(),
                plane.view.tokens, plane.view.kv_heads, plane.view.head_dim);
  }
  return std::isfinite(error) && error < 0.2 && report->ratio > 2 ? 0 : 1;
}
