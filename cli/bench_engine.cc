// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_engine.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cstdlib>
#include <filesystem>

#include "cli/console.h"
#include "cli/input_file.h"
#include "formats/byte_io.h"
#ifdef KVPACK_HAVE_LIBLLAMA
#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"
#endif

namespace kvpack::cli {

#ifdef KVPACK_HAVE_LIBLLAMA

namespace {

constexpr uint64_t kMaxTextBytes = 1 << 30;

// llama.cpp reads states from files only.
class TemporaryState {
 public:
  TemporaryState() {
    std::error_code error;
    std::string pattern = (std::filesystem::temp_directory_path(error) / "kvpack-bench-XXXXXX").string();
    if (!error && ::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
  }
  ~TemporaryState() {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  TemporaryState(const TemporaryState&) = delete;
  TemporaryState& operator=(const TemporaryState&) = delete;

  std::string path() const { return folder_ + "/state.bin"; }
  Status write(ByteSpan bytes) const {
    if (folder_.empty()) return io_error("no temporary folder for states can be made");
    KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(path(), /*overwrite=*/true));
    KVPACK_RETURN_IF_ERROR(file->write(bytes));
    return file->commit();
  }
  // As soon as it was read: an interrupted run then leaves an empty folder at most.
  void remove() const {
    std::error_code ignored;
    std::filesystem::remove(path(), ignored);
  }

 private:
  std::string folder_;
};

uint32_t tokens_held(const KvTensor& tensor) {
  size_t most = 0;
  for (const TokenSet& set : tensor.token_sets) {
    if (!set.positions.empty()) most = std::max(most, static_cast<size_t>(set.positions.back()) + 1);
  }
  return static_cast<uint32_t>(most);
}

// The text's tokens have to be the file's, or the predictions would be about something else.
Status check_tokens(const BenchFile& file, const std::string& text, const std::vector<int32_t>& tokens) {
  const std::vector<int32_t>& held = file.file.tokens;
  for (size_t i = 0; i < held.size() && i < tokens.size(); ++i) {
    if (held[i] == tokens[i]) continue;
    return invalid_argument(fmt::format("{} is not what {} holds: token {} is {} in the text and {} in the file", text,
                                        file.path, i, tokens[i], held[i]));
  }
  return {};
}

}  // namespace

struct BenchEngine::State {
  engine::LlamaEngine engine;
  TemporaryState file;
  std::vector<int32_t> forced;   // continuation tokens that are fed
  std::vector<int32_t> targets;  // and what follows each
  engine::LogitMatrix exact;
  std::map<std::pair<uint64_t, uint64_t>, BenchPredictions> known;  // by XXH3-128 of the restored bytes

  Result<engine::LogitMatrix> predict(ByteSpan state) {
    KVPACK_RETURN_IF_ERROR(file.write(state));
    const auto loaded = engine.load_state(file.path());
    file.remove();
    if (!loaded.ok()) return loaded.error();
    return engine.evaluate(forced);
  }
};

Result<std::unique_ptr<BenchEngine>> BenchEngine::open(const BenchQuestion& question, const BenchFile& file) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_input(question.text, kMaxTextBytes));
  const uint32_t prefix = tokens_held(file.file.tensor);
  engine::EngineOptions options;
  options.threads = static_cast<int>(file.threads);
  options.n_ctx = prefix + question.continuation + 1;
  KVPACK_ASSIGN_OR_RETURN(engine::LlamaEngine engine, engine::LlamaEngine::open("", question.model, options));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine.tokenize(as_text(text)));
  const size_t needed = size_t{prefix} + question.continuation + 1;
  if (tokens.size() < needed) {
    return invalid_argument(fmt::format("{}: {} tokens, and {} are needed: {} of {} and {} to continue with",
                                        question.text, tokens.size(), needed, prefix, file.path,
                                        question.continuation + 1));
  }
  KVPACK_RETURN_IF_ERROR(check_tokens(file, question.text, tokens));
  std::unique_ptr<State> state(new State{std::move(engine), {}, {}, {}, {}, {}});
  const auto split = tokens.begin() + prefix;
  state->forced.assign(split, split + question.continuation);
  state->targets.assign(split + 1, split + 1 + question.continuation);
  if (file.file.tensor.storage == nullptr) return unsupported(file.path + ": values that are not in one buffer");
  KVPACK_ASSIGN_OR_RETURN(state->exact, state->predict(*file.file.tensor.storage));
  return std::unique_ptr<BenchEngine>(new BenchEngine(std::move(state)));
}

Result<BenchPredictions> BenchEngine::judge(ByteSpan restored) {
  const XXH128_hash_t hash = XXH3_128bits(restored.data(), restored.size());
  const std::pair<uint64_t, uint64_t> key(hash.high64, hash.low64);
  const auto found = state_->known.find(key);
  if (found != state_->known.end()) return found->second;
  KVPACK_ASSIGN_OR_RETURN(const engine::LogitMatrix logits, state_->predict(restored));
  KVPACK_ASSIGN_OR_RETURN(const engine::PredictionDistance distance,
                          engine::compare_predictions(state_->exact, logits, state_->targets));
  const BenchPredictions predictions{distance.kl, distance.delta_nll, distance.top1_share};
  state_->known[key] = predictions;
  return predictions;
}

#else

struct BenchEngine::State {};

Result<std::unique_ptr<BenchEngine>> BenchEngine::open(const BenchQuestion&, const BenchFile&) {
  return with_hint(unsupported("this kvpack was built without llama.cpp, which --engine asks"),
                   "build with -DKVPACK_LLAMA_DIR=DIR (its include/ and lib/)");
}

Result<BenchPredictions> BenchEngine::judge(ByteSpan) { return unsupported("no llama.cpp"); }

#endif

BenchEngine::BenchEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}
BenchEngine::~BenchEngine() = default;

}  // namespace kvpack::cli
