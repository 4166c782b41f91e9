// SPDX-License-Identifier: Apache-2.0
// .npy in and out: versions 1 to 3 of numpy/lib/format.py, both memory orders, every type that is read.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstring>

#include "formats/half.h"
#include "formats/npy_header.h"
#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

// Layers 2, K and V, heads 2, tokens 3, head_dim 4.
constexpr uint32_t kLayers = 2, kHeads = 2, kTokens = 3, kDim = 4;
constexpr size_t kValues = kLayers * 2 * kHeads * kTokens * kDim;

std::string dict(std::string_view descr, std::string_view order = "False", std::string_view shape = "(2, 2, 2, 3, 4)") {
  return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}", descr, order, shape);
}

Bytes file_of(const std::string& header, size_t element_bytes, int major = 1) {
  ByteWriter writer;
  writer.write_bytes(as_byte_span(std::string_view("\x93NUMPY", 6)));
  writer.write(static_cast<uint8_t>(major));
  writer.write(uint8_t{0});
  if (major == 1) writer.write(static_cast<uint16_t>(header.size()));
  if (major != 1) writer.write(static_cast<uint32_t>(header.size()));
  writer.write_bytes(as_byte_span(header));
  for (size_t i = 0; i < kValues; ++i) {
    const auto value = static_cast<float>(i);
    if (element_bytes == 4) writer.write(value);
    if (element_bytes == 2)
      writer.write(header.find("f2") != std::string::npos ? f32_to_f16(value) : f32_to_bf16(value));
  }
  return writer.take();
}

Result<KvFile> read(const Bytes& bytes) { return read_kv_file(bytes, {}); }

}  // namespace

TEST_CASE("npy: every version, type and memory order; each value in its place") {
  const struct {
    const char* descr;
    size_t bytes;
    DType dtype;
  } types[] = {{"<f2", 2, DType::kF16}, {"<f4", 4, DType::kF32}, {"|V2", 2, DType::kBf16}, {"<u2", 2, DType::kBf16}};
  for (const auto& type : types) {
    for (const std::string order : {"False", "True"}) {
      for (const int version : {1, 2, 3}) {
        CAPTURE(type.descr);
        CAPTURE(order);
        const Bytes bytes = file_of(dict(type.descr, order), type.bytes, version);
        const KvFile file = must(read(bytes));
        REQUIRE(file.tensor.planes.size() == 4);
        const uint32_t dims[] = {kLayers, 2, kHeads, kTokens, kDim};
        for (size_t p = 0; p < 4; ++p) {
          const KvView& view = file.tensor.planes[p].view;
          CHECK(view.dtype == type.dtype);
          std::vector<float> rows(kTokens * kHeads * kDim);
          load_values(view, 0, kTokens, rows.data());
          for (uint32_t t = 0; t < kTokens; ++t) {
            for (uint32_t h = 0; h < kHeads; ++h) {
              for (uint32_t d = 0; d < kDim; ++d) {
                const uint32_t at[] = {static_cast<uint32_t>(p / 2), static_cast<uint32_t>(p % 2), h, t, d};
                uint64_t index = 0;
                for (int i = 0; i < 5; ++i) {
                  const int dim = order == "True" ? 4 - i : i;
                  index = index * dims[dim] + at[dim];
                }
                CHECK(rows[(t * kHeads + h) * kDim + d] == static_cast<float>(index));
              }
            }
          }
        }
        CHECK(rebuild(file) == bytes);
        CHECK(restore(pack(file, nullptr, Quality::kLossless)) == bytes);
      }
    }
  }
}

TEST_CASE("npy: headers as numpy and others write them, and headers that are none") {
  CHECK(
      must(parse_npy_header(file_of("{\"descr\":\"<f2\",\"fortran_order\":False,\"shape\":(2,2,2,3,4)}\n", 0))).shape ==
      std::vector<uint64_t>{2, 2, 2, 3, 4});
  CHECK(must(parse_npy_header(file_of("{'shape': (7,), 'fortran_order': True, 'descr': '<f4'}", 0))).fortran_order);
  for (const std::string header :
       {"", "{", "}", "{}", "{'descr': '<f2'}", "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, -2)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2.0)}",
        "{'descr': '<f2', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f2', 'descr': '<f2', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f2\x1b', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (18446744073709551616,)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)}",
        "__import__('os').system('true')"}) {
    CAPTURE(header);
    check_error(parse_npy_header(file_of(header, 0)), ErrorKind::kCorrupt, "npy header at offset");
  }
  Bytes bytes = file_of(dict("<f2"), 2);
  bytes[6] = std::byte{4};
  check_error(read(bytes), ErrorKind::kUnsupported, "version 4.0");
  bytes = file_of(dict("<f2") + std::string(70000, ' '), 2, 2);
  check_error(read(bytes), ErrorKind::kLimit, "70");
}

TEST_CASE("npy: arrays that are no cache") {
  check_error(read(file_of(dict("<f8"), 2)), ErrorKind::kUnsupported, "'<f8'");
  check_error(read(file_of(dict(">f2"), 2)), ErrorKind::kUnsupported, "'>f2'");
  check_error(read(file_of(dict("|O"), 2)), ErrorKind::kUnsupported, "'|O'");
  check_error(read(file_of(dict("<f2", "False", "(96,)"), 2)), ErrorKind::kUnsupported, "shape (96)");
  check_error(read(file_of(dict("<f2", "False", "(2, 3, 2, 2, 4)"), 2)), ErrorKind::kUnsupported, "(2, 3, 2, 2, 4)");
  check_error(read(file_of(dict("<f2", "False", "(2, 2, 2, 0, 4)"), 2)), ErrorKind::kLimit, "at least one token");
  check_error(read(file_of(dict("<f2", "False", "(2, 2, 2, 4, 4)"), 2)), ErrorKind::kTruncated, "256");
  check_error(read(file_of(dict("<f2", "False", "(1, 2, 2, 3, 4)"), 2)), ErrorKind::kCorrupt, "192 bytes of values");
  for (const std::string shape : {"(4294967296, 2, 4294967296, 1, 1)", "(1, 2, 1, 18446744073709551615, 1)",
                                  "(2, 2, 2, 9223372036854775808, 4)", "(1024, 2, 1024, 2147483647, 8192)"}) {
    CAPTURE(shape);
    const auto result = read(file_of(dict("<f2", "False", shape), 2));
    CHECK_FALSE(result.ok());
  }
}

TEST_CASE("npy: cut at every byte; a container that promises too much") {
  const Bytes bytes = file_of(dict("<f2"), 2);
  for (size_t count = 0; count < bytes.size(); ++count) {
    CHECK_FALSE(read(Bytes(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count))).ok());
  }
  const Bytes container = must(read(bytes)).container;
  for (size_t count = 0; count < container.size(); ++count) {
    CHECK_FALSE(open_container(KvFileFormat::kNpy, ByteSpan(container).first(count), {}).ok());
  }
  const Bytes huge = make_npy_header({"<f4", false, {1024, 2, 1024, 1 << 20, 1024}, 0});
  check_error(open_container(KvFileFormat::kNpy, huge, {}), ErrorKind::kLimit, "the file would have");
  // More tokens than an archive may have: refused before their positions are made.
  const Bytes longest = make_npy_header({"<f2", false, {1, 2, 1, 1 << 30, 1}, 0});
  check_error(open_container(KvFileFormat::kNpy, longest, {}), ErrorKind::kLimit, "at most 16777216");
}

TEST_CASE("npy: written from a llama.cpp cache and read back; what is no array is refused") {
  const ModelFacts facts = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    const Bytes bytes = must(write_npy(file.tensor, dtype));
    const KvFile back = must(read(bytes));
    CHECK((bytes.size() - back.tensor.raw_bytes()) % 64 == 0);  // values aligned
    CHECK(relative_error(file.tensor, back.tensor) <= (dtype == DType::kBf16 ? 0.004 : 0.0));
  }
  check_error(write_npy(file.tensor, DType::kQ4_0), ErrorKind::kUnsupported, "q4_0");
  check_error(write_npy(KvTensor(), std::nullopt), ErrorKind::kUnsupported);
  check_error(write_npy(read_kv(read_sample("zoo/gemma2.bin")).tensor, std::nullopt), ErrorKind::kUnsupported,
              "write safetensors instead");
  check_error(write_npy(read_kv(read_sample("zoo/deepseek2.bin")).tensor, std::nullopt), ErrorKind::kUnsupported);
}

TEST_CASE("npy: a model's layer count and head sizes are checked") {
  ModelFacts facts;
  facts.architecture = "llama";
  facts.ropes.push_back(plain_rope(RopeStyle::kNorm, 4));
  facts.layers.assign(2, LayerFacts{2, 4, 4, 0, false, false});
  KvReadOptions options;
  options.facts = &facts;
  const Bytes bytes = file_of(dict("<f2"), 2);
  const KvFile file = must(read_kv_file(bytes, options));
  REQUIRE(file.facts.has_value());  // transformers' channel order
  CHECK(file.facts->ropes[0].style == RopeStyle::kNeox);
  CHECK(file.tensor.planes[2].rope == 0);
  // A layer without KV in between: the array holds the others.
  facts.layers.insert(facts.layers.begin() + 1, LayerFacts{});
  CHECK(must(read_kv_file(bytes, options)).tensor.planes[2].layer == 2);
  facts.layers.push_back(facts.layers[0]);
  check_error(read_kv_file(bytes, options), ErrorKind::kInvalidArgument, "the file has 2 layers, the model 3");
}
