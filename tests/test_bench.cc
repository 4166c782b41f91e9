// SPDX-License-Identifier: Apache-2.0
// `kvpack bench` from outside: which methods it lists, that its sizes are those of real archives, what it refuses.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/program_run.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

const std::string kState = sample_path("smollm2-harbour.slot.bin");
const std::string kModel = sample_path("smollm2-135m.model.json");

nlohmann::json method_named(const nlohmann::json& report, const std::string& name) {
  for (const auto& method : report["mean"]) {
    if (method["name"] == name) return method;
  }
  FAIL("no method '" << name << "'");
  return {};
}

TEST_CASE("bench lists kvpack's qualities and the presets that were asked for, with all their bytes") {
  const Outcome run = run_kvpack({"bench", kState, "--model", kModel, "--no-profile", "--against", "q4_0,kivi-2,kivi-4",
                                  "--bits", "2.5", "--json"});
  REQUIRE_MESSAGE(run.exit_code == 0, run.err);
  const auto report = nlohmann::json::parse(run.out);
  CHECK(report["mean"].size() == 8);  // four qualities, one rate, q4_0, kivi-2, kivi-4
  CHECK(report["files"][0]["methods"].size() == 8);
  const auto q4 = method_named(report, "q4_0");
  CHECK(q4["bits_per_value"].get<double>() == doctest::Approx(4.5));
  CHECK(method_named(report, "kvpack lossless")["relative_error"] == 0);
  CHECK(method_named(report, "kvpack 2.5 bits")["bits_per_value"].get<double>() <= 2.5);

  const engine::ScratchFolder folder;
  const std::string archive = folder.file("a.kvp");
  const Outcome encoded =
      run_kvpack({"encode", kState, "-m", kModel, "--no-profile", "--quality", "medium", "-q", "-o", archive});
  REQUIRE_MESSAGE(encoded.exit_code == 0, encoded.err);
  CHECK(method_named(report, "kvpack medium")["bytes"] == std::filesystem::file_size(archive));
  const auto levels = method_named(report, "kvpack high")["levels"];
  REQUIRE(levels.size() == 3);
  for (const auto& level : levels) {
    CHECK(level["overhead"].get<double>() > -0.05);
    CHECK(level["overhead"].get<double>() < 0.05);
    // Tiles of 256 tokens under their own histograms, which cost nothing: the ideal is a little unfair.
    CHECK(level["tile_bytes"].get<double>() > 0.9 * level["entropy_bytes"].get<double>());
    CHECK(level["tile_bytes"].get<double>() < 1.2 * level["entropy_bytes"].get<double>());
  }
  CHECK(levels[0]["nested_bytes"] < levels[1]["nested_bytes"]);
}

TEST_CASE("bench says what is wrong with its arguments") {
  const auto fails = [](std::vector<std::string> arguments, const std::string& text) {
    arguments.insert(arguments.begin(), {"bench", kState});
    const Outcome run = run_kvpack(arguments);
    CAPTURE(run.err);
    CHECK(run.exit_code == 2);
    CHECK(run.err.find(text) != std::string::npos);
  };
  fails({"--against", "turbo"}, "cachegen");
  fails({"--engine", kModel}, "--text");
  fails({"--plot", "a.svg"}, "--engine");
  fails({"--profile", kModel}, "--model");
  fails({"--engine", kModel, "--text", kModel, "--text", kModel}, "2 texts for 1 files");
}

}  // namespace
}  // namespace kvpack::test
