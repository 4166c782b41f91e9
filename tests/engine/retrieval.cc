// SPDX-License-Identifier: Apache-2.0
// kvpack_retrieval: does a compressed cache still know the numbers that its text hid? Numbers in prefixes of 2,048
// tokens, asked for after the cache went through the program to a file and back into a real engine. Per way of
// encoding: bits per value, numbers whose every token is the likeliest, mean log-probability of a number. Ends with 1
// if medium finds less than 0.95 of what the exact cache finds, or token classes find fewer than none at equal bits.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <optional>

#include "tests/engine/hidden_numbers.h"
#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#include "tests/engine/run_program.h"
#include "tests/engine/scratch_folder.h"

namespace kvpack::engine {
namespace {

struct Arguments {
  std::string llama;
  std::string model;
  std::string facts;
  std::string profile;
  std::string kvpack;
  uint32_t prefix = 2048;
  uint32_t texts = 10;
  int threads = 2;
};

struct Tally {
  double bits = 0;  // summed over the texts
  uint32_t texts = 0;
  uint32_t asked = 0;
  uint32_t found = 0;
  double log_probability = 0;

  double mean_bits() const { return texts > 0 ? bits / texts : 0; }
};

struct Method {
  std::string name;
  bool exact = false;
  bool profile = false;
  std::vector<std::string> options;  // of encode
  Tally tally;
};

class Retrieval {
 public:
  Retrieval(LlamaEngine engine, Arguments arguments) : engine_(std::move(engine)), arguments_(std::move(arguments)) {}

  // One text through every method.
  Status run(uint32_t seed, std::vector<Method>& methods) {
    KVPACK_ASSIGN_OR_RETURN(const NumbersText text, make_numbers_text(engine_, arguments_.prefix, seed));
    KVPACK_RETURN_IF_ERROR(engine_.prefill(text.prefix));
    KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t bytes,
                            engine_.save_state(scratch_.file("exact"), text.prefix));
    for (Method& method : methods) {
      std::string state = scratch_.file("exact");
      if (method.exact) {
        method.tally.bits += 16;
      } else {
        state = scratch_.file("restored");
        KVPACK_RETURN_IF_ERROR(through_archive(method, state));
      }
      ++method.tally.texts;
      for (const HiddenNumber& number : text.numbers) KVPACK_RETURN_IF_ERROR(ask(state, number, method.tally));
    }
    return {};
  }

 private:
  Status through_archive(Method& method, const std::string& state) const {
    const std::string archive = scratch_.file("archive");
    const std::string exact = scratch_.file("exact");
    std::vector<std::string> encode = {
        arguments_.kvpack, "encode", exact, "-m", arguments_.facts, "-q", "-f", "-o", archive};
    std::vector<std::string> decode = {arguments_.kvpack, "decode", archive, "-q", "-f", "-o", state};
    const std::vector<std::string> choice = method.profile ? std::vector<std::string>{"--profile", arguments_.profile}
                                                           : std::vector<std::string>{"--no-profile"};
    encode.insert(encode.end(), choice.begin(), choice.end());
    encode.insert(encode.end(), method.options.begin(), method.options.end());
    if (method.profile) decode.insert(decode.end(), choice.begin(), choice.end());
    KVPACK_RETURN_IF_ERROR(run_program(encode));
    KVPACK_RETURN_IF_ERROR(run_program(decode));
    const auto size = [](const std::string& path) { return static_cast<double>(std::filesystem::file_size(path)); };
    method.tally.bits += 16 * size(archive) / size(exact);  // f16 values, and a little around them
    return {};
  }

  Status ask(const std::string& state, const HiddenNumber& number, Tally& tally) {
    KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState restored, engine_.load_state(state));
    std::vector<int32_t> forced = number.question;
    forced.insert(forced.end(), number.answer.begin(), number.answer.end() - 1);
    KVPACK_ASSIGN_OR_RETURN(LogitMatrix logits, engine_.evaluate(forced));
    // The rows that predict the answer.
    const auto first = static_cast<ptrdiff_t>((number.question.size() - 1) * logits.vocabulary);
    logits.values.erase(logits.values.begin(), logits.values.begin() + first);
    KVPACK_ASSIGN_OR_RETURN(const PredictionDistance distance, compare_predictions(logits, logits, number.answer));
    tally.log_probability -= distance.reference_nll * static_cast<double>(number.answer.size());
    ++tally.asked;
    tally.found += all_likeliest(logits, number.answer);
    return {};
  }

  static bool all_likeliest(const LogitMatrix& logits, const std::vector<int32_t>& answer) {
    for (size_t i = 0; i < answer.size(); ++i) {
      const float* row = logits.row(i);
      if (std::max_element(row, row + logits.vocabulary) - row != answer[i]) return false;
    }
    return true;
  }

  LlamaEngine engine_;
  Arguments arguments_;
  ScratchFolder scratch_;
};

std::vector<Method> methods_of(const Arguments& arguments) {
  std::vector<Method> methods = {{"exact", true, false, {}, {}}, {"medium, no profile", false, false, {}, {}}};
  if (arguments.profile.empty()) return methods;
  methods.push_back({"medium, profile", false, true, {}, {}});
  for (const char* bits : {"1.0", "0.7", "0.5"}) {
    methods.push_back({fmt::format("{} bits, token classes", bits), false, true, {"--bits", bits}, {}});
    methods.push_back({fmt::format("{} bits, none", bits), false, true, {"--bits", bits, "--no-token-classes"}, {}});
  }
  return methods;
}

void print_table(const std::vector<Method>& methods) {
  fmt::print("{:28} {:>10} {:>9} {:>22}\n", "method", "bits/value", "found", "mean log-probability");
  for (const Method& method : methods) {
    const Tally& tally = method.tally;
    fmt::print("{:28} {:>10.3f} {:>9} {:>22.3f}\n", method.name, tally.mean_bits(),
               fmt::format("{}/{}", tally.found, tally.asked), tally.log_probability / std::max(1u, tally.asked));
  }
  std::fflush(stdout);
}

bool goals_met(const std::vector<Method>& methods) {
  bool met = methods[0].tally.found > 0;
  for (size_t i = 1; i < methods.size(); ++i) {
    const Tally& tally = methods[i].tally;
    if (methods[i].name.starts_with("medium")) met = met && tally.found >= 0.95 * methods[0].tally.found;
    if (methods[i].name.ends_with(", none")) met = met && methods[i - 1].tally.found >= tally.found;
  }
  return met;
}

Result<bool> measure(const Arguments& arguments) {
  EngineOptions options;
  options.threads = arguments.threads;
  options.n_ctx = arguments.prefix + 128;
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open(arguments.llama + "/lib", arguments.model, options));
  std::vector<Method> methods = methods_of(arguments);
  Retrieval retrieval(std::move(engine), arguments);
  for (uint32_t seed = 0; seed < arguments.texts; ++seed) {
    KVPACK_RETURN_IF_ERROR(retrieval.run(seed, methods));
    fmt::print("after {} of {} texts:\n", seed + 1, arguments.texts);
    print_table(methods);
  }
  return goals_met(methods);
}

}  // namespace
}  // namespace kvpack::engine

int main(int argc, char** argv) {
  using namespace kvpack::engine;
  Arguments arguments;
  CLI::App app{"Numbers hidden in a text, asked for after its cache was compressed", "kvpack_retrieval"};
  app.add_option("--llama", arguments.llama, "folder with llama.cpp's lib/ (see fetch_llama.sh)")->required();
  app.add_option("--model", arguments.model, "GGUF that the engine runs")->required();
  app.add_option("--facts", arguments.facts, "what encode gets as --model (default: the same)");
  app.add_option("--profile", arguments.profile, "profile of that model (default: only what needs none)");
  app.add_option("--kvpack", arguments.kvpack, "the kvpack program")->required();
  app.add_option("--prefix", arguments.prefix)->capture_default_str();
  app.add_option("--texts", arguments.texts, "eight numbers each")->capture_default_str();
  app.add_option("--threads", arguments.threads)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (arguments.facts.empty()) arguments.facts = arguments.model;
  const auto met = measure(arguments);
  if (met.ok()) return *met ? 0 : 1;
  fmt::print(stderr, "kvpack_retrieval: {}\n", met.error().message);
  return 2;
}
