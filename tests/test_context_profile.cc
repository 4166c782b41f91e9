// SPDX-License-Identifier: Apache-2.0
// A context measured through the model's weights alone: what is computed is what the cache holds, errors cost what they
// cost with an engine's profile, and what cannot be measured is refused with the reason.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "codec/archive_codec.h"
#include "codec/context_profile.h"
#include "codec/profile_file.h"
#include "tests/program_run.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

const std::string kState = sample_path("llama/lighthouse-f16.slot.bin");
const std::string kModel = sample_path("nano-f16.gguf");

struct Nano {
  ModelFacts facts = nano_facts();
  KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  std::unique_ptr<ByteSource> model = must(open_file_source(kModel));

  Result<Profile> measure(ContextProfileOptions options = {}) const {
    return profile_of_context(file, facts, *model, options);
  }
};

// Correlation of ln(sensitivity) over all planes and heads.
double sensitivity_correlation(const Profile& a, const Profile& b) {
  double n = 0, sum_a = 0, sum_b = 0, aa = 0, bb = 0, ab = 0;
  for (const ProfilePlane& plane : a.planes) {
    const ProfilePlane* other = b.plane(plane.layer, plane.side);
    REQUIRE(other != nullptr);
    for (uint32_t head = 0; head < plane.kv_heads; ++head) {
      const double x = std::log(double{plane.sensitivity[head]});
      const double y = std::log(double{other->sensitivity[head]});
      ++n, sum_a += x, sum_b += y, aa += x * x, bb += y * y, ab += x * y;
    }
  }
  return (ab - sum_a * sum_b / n) / std::sqrt((aa - sum_a * sum_a / n) * (bb - sum_b * sum_b / n));
}

TEST_CASE("what a context measures agrees with the profile that an engine trained on other texts") {
  const Nano nano;
  const Profile measured = must(nano.measure());
  const Profile trained = must(read_profile(read_sample("profiles/nano.kvprofile"), "nano.kvprofile"));
  CHECK(measured.planes.size() == trained.planes.size());
  CHECK(sensitivity_correlation(measured, trained) > 0.8);
  CHECK(measured.model_fingerprint == trained.model_fingerprint);
}

TEST_CASE("the same for every number of threads") {
  const Nano nano;
  ContextProfileOptions one, three;
  one.threads = 1;
  three.threads = 3;
  CHECK(write_profile(must(nano.measure(one))) == write_profile(must(nano.measure(three))));
}

TEST_CASE("an archive that stores its bases needs no profile and is smaller than without") {
  const Nano nano;
  const Profile measured = must(nano.measure());
  EncodeOptions options;
  MemorySink plain, stored;
  must(encode_archive(nano.file, &nano.facts, options, plain));
  options.profile = &measured;
  options.store_basis = true;
  must(encode_archive(nano.file, &nano.facts, options, stored));
  CHECK(stored.bytes().size() < 0.8 * plain.bytes().size());
  MemorySource source(stored.bytes());
  const ArchiveReader reader = must(ArchiveReader::open(source));
  CHECK(must(read_identity(reader)).profile_hash.empty());
  const KvTensor decoded = must(decode_tensor(reader, {}, nullptr));
  CHECK(relative_error(nano.file.tensor, decoded) < 0.5);
}

TEST_CASE("what cannot be measured is refused with the reason") {
  Nano nano;
  SUBCASE("no token ids") {
    nano.file.tokens.clear();
    check_error(nano.measure(), ErrorKind::kUnsupported, "names no token ids");
  }
  SUBCASE("other tokens than those of the cache") {
    std::reverse(nano.file.tokens.begin(), nano.file.tokens.end());
    check_error(nano.measure(), ErrorKind::kUnsupported, "differ from the cached ones");
  }
  SUBCASE("a token that the model has not") {
    nano.file.tokens.back() = INT32_MAX;
    check_error(nano.measure(), ErrorKind::kInvalidArgument, "token 2147483647");
  }
  SUBCASE("positions with gaps") {
    nano.file.tensor.token_sets[0].positions.back() += 1;
    check_error(nano.measure(), ErrorKind::kUnsupported, "gaps");
  }
  SUBCASE("several streams") {
    nano.file = read_kv(read_sample("llama/lighthouse-4-streams.slot.bin"), &nano.facts);
    // One stream of four holds the context: that is one cache.
    CHECK(nano.measure().ok());
  }
  SUBCASE("facts without weights") {
    const Bytes json = read_sample("smollm2-135m.model.json");
    MemorySource source(json, "model.json");
    check_error(profile_of_context(nano.file, nano.facts, source, {}), ErrorKind::kUnsupported,
                "only a GGUF has weights");
  }
  SUBCASE("weights that are no numbers") {
    Bytes bytes = read_sample("nano-f16.gguf");
    std::fill(bytes.begin() + static_cast<ptrdiff_t>(bytes.size() / 4), bytes.end(), std::byte{0xff});
    MemorySource source(bytes, "nan.gguf");
    check_error(profile_of_context(nano.file, nano.facts, source, {}), ErrorKind::kCorrupt, "not finite");
  }
  SUBCASE("weights that end early") {
    const Bytes whole = read_sample("nano-f16.gguf");
    MemorySource source(ByteSpan(whole).first(whole.size() / 2), "half.gguf");
    CHECK_FALSE(profile_of_context(nano.file, nano.facts, source, {}).ok());
  }
}

TEST_CASE("encode measures by itself, says so if it cannot, and --measure 0 leaves it out") {
  const kvpack::engine::ScratchFolder folder;
  const auto size_of = [&](const std::string& name, const std::vector<std::string>& options) {
    std::vector<std::string> arguments = {"encode", kState, "-o", folder.file(name)};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Outcome run = run_kvpack(arguments);
    REQUIRE_MESSAGE(run.exit_code == 0, run.err);
    return std::pair(std::filesystem::file_size(folder.file(name)), run.out + run.err);
  };
  const auto measured = size_of("a", {"--model", kModel, "--no-profile"});
  const auto plain = size_of("b", {"--model", kModel, "--no-profile", "--measure", "0"});
  CHECK(measured.first < 0.8 * static_cast<double>(plain.first));
  CHECK(measured.second.find("was not measured") == std::string::npos);
  const Outcome facts = run_kvpack({"model", kModel, "-o", folder.file("nano.json")});
  REQUIRE_MESSAGE(facts.exit_code == 0, facts.err);
  const auto other = size_of("c", {"--model", folder.file("nano.json"), "--no-profile"});
  CHECK(other.second.find("was not measured") != std::string::npos);
}

}  // namespace
}  // namespace kvpack::test
