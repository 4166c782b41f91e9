// SPDX-License-Identifier: Apache-2.0
// Every real state file of samples/ through an archive: lossless to the byte, medium to a file of the same layout.
#include <doctest/doctest.h>

#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

std::vector<std::string> all_samples() {
  std::vector<std::string> names = samples_in("llama");
  for (const std::string& name : samples_in("zoo")) names.push_back(name);
  return names;
}

// Everything but the values: positions, token ids, types and sizes, recurrent and other opaque state, trailing bytes.
void check_same_layout(const KvFile& a, const Bytes& b_bytes, const ModelFacts* facts) {
  const KvFile b = read_kv(b_bytes, facts);
  CHECK(a.container == b.container);
  CHECK(a.module == b.module);
}

// What a conversion to another state file starts from.
struct Parts {
  KvTensor tensor;
  std::vector<int32_t> tokens;
  Bytes container;
};

Parts parts_of(const Bytes& archive, const DecodeOptions& options) {
  MemorySource source(archive);
  const ArchiveReader reader = must(ArchiveReader::open(source));
  Parts parts;
  parts.tensor = must(decode_tensor(reader, options, &parts.tokens));
  parts.container = must(reader.section(SectionKind::kContainer));
  return parts;
}

}  // namespace

TEST_CASE("samples: lossless gives back the same bytes, with and without the model") {
  const ModelFacts nano = nano_facts();
  for (const std::string& name : all_samples()) {
    for (const bool with_model : {false, true}) {
      if (with_model && !name.starts_with("llama/")) continue;
      CAPTURE(name);
      CAPTURE(with_model);
      const ModelFacts* facts = with_model ? &nano : nullptr;
      const Bytes bytes = read_sample(name);
      const Bytes archive = pack(read_kv(bytes, facts), facts, Quality::kLossless);
      CHECK(restore(archive) == bytes);
      CHECK(archive.size() < bytes.size() + 4096);
    }
  }
}

TEST_CASE("samples: medium gives a file of the same layout, close in its values, exact in everything else") {
  const ModelFacts nano = nano_facts();
  for (const std::string& name : all_samples()) {
    CAPTURE(name);
    const ModelFacts* facts = name.starts_with("llama/") ? &nano : nullptr;
    const Bytes bytes = read_sample(name);
    const KvFile file = read_kv(bytes, facts);
    const Bytes archive = pack(file, facts, Quality::kMedium);
    const Bytes restored = restore(archive);
    CHECK(restored.size() == bytes.size());
    check_same_layout(file, restored, facts);
    if (file.tensor.values() == 0) {
      CHECK(restored == bytes);
      continue;
    }
    const double error = relative_error(file.tensor, read_kv(restored, facts).tensor);
    CHECK(error < 0.2);
    CHECK(error > 0);
    CHECK(archive.size() < pack(file, facts, Quality::kLossless).size());
  }
}

TEST_CASE("samples: at the same rate the model makes keys more exact") {
  const ModelFacts nano = nano_facts();
  const Bytes bytes = read_sample("llama/lighthouse-f16.slot.bin");
  const auto error_with = [&](const ModelFacts* facts) {
    EncodeOptions options;
    options.bits_per_value = 3;
    MemorySink sink;
    const EncodeReport report = must(encode_archive(read_kv(bytes, facts), facts, options, sink));
    CHECK(report.bits_per_value <= 3);
    return report.levels.back().relative_error;
  };
  CHECK(error_with(&nano) < 0.9 * error_with(nullptr));
}

TEST_CASE("samples: an archive turns into a state file of another layout and type") {
  const ModelFacts nano = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-4-streams.slot.bin"), &nano);
  const auto [tensor, tokens, container] = parts_of(pack(file, &nano, Quality::kLossless), {});
  CHECK(tokens == file.tokens);
  const LlamaLayout layout{.streams = 1, .transposed_v = true, .value_type = DType::kF32, .packed_payload = false};
  const KvFile back = read_kv(must(write_llama_state(tensor, tokens, container, layout)), &nano);
  CHECK(relative_error(file.tensor, back.tensor) == 0);
  CHECK(back.tokens == file.tokens);
  CHECK(back.tensor.planes[1].view.dtype == DType::kF32);
  CHECK(back.tensor.token_sets[0].stream == 0);
}

TEST_CASE("samples: a part of the tokens is a state file of that part") {
  const ModelFacts nano = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &nano);
  DecodeOptions options;
  options.positions = {0, 300};
  const auto [tensor, tokens, container] = parts_of(pack(file, &nano, Quality::kLossless), options);
  const KvFile part = read_kv(must(write_llama_state(tensor, tokens, container, {})), &nano);
  CHECK(part.tokens == std::vector<int32_t>(file.tokens.begin(), file.tokens.begin() + 300));
  REQUIRE(part.tensor.token_sets[0].positions.size() == 300);
  CHECK(relative_error(part.tensor, tensor) == 0);
}
