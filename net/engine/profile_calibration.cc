// SPDX-License-Identifier: Apache-2.0
#include "net/engine/profile_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "codec/archive_codec.h"
#include "formats/byte_io.h"
#include "net/engine/llama_engine.h"
#include "net/engine/metrics.h"

namespace kvpack::engine {
namespace {

namespace fs = std::filesystem;

constexpr double kFloorScale = 1.0 / 32;  // steps so much finer: only the engine's floor is left
constexpr double kSlope = 2.2;            // of ln KL on ln step, on real models between low and medium
constexpr double kCloseEnough = 0.1;      // of ln KL
constexpr int kMostTrials = 3;

// State files for the engine, which reads and writes no other way.
class StateFolder {
 public:
  StateFolder() {
    std::string pattern = (fs::temp_directory_path() / "kvpack-XXXXXX").string();
    if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~StateFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  StateFolder(const StateFolder&) = delete;
  StateFolder& operator=(const StateFolder&) = delete;
  bool ok() const { return !path_.empty(); }
  std::string file(const std::string& name) const { return (fs::path(path_) / name).string(); }

 private:
  std::string path_;
};

// A context in the engine's own file, and what the engine predicts from it.
struct Window {
  KvFile file;
  std::vector<int32_t> forced;
  std::vector<int32_t> targets;
  LogitMatrix exact;
};

Result<Window> make_window(LlamaEngine& engine, const ModelFacts& facts, const StateFolder& folder,
                           const std::vector<int32_t>& tokens, uint32_t window_tokens) {
  const auto split = tokens.begin() + (window_tokens - std::max(1u, window_tokens / 9));
  const std::vector<int32_t> prefix(tokens.begin(), split);
  Window window;
  window.forced.assign(split, tokens.begin() + window_tokens);
  window.targets.assign(split + 1, tokens.begin() + window_tokens + 1);
  const std::string path = folder.file("own.bin");
  KVPACK_RETURN_IF_ERROR(engine.prefill(prefix));
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t written, engine.save_state(path, prefix));
  KVPACK_ASSIGN_OR_RETURN(Bytes bytes, read_whole_file(path));
  KvReadOptions options;
  options.facts = &facts;
  KVPACK_ASSIGN_OR_RETURN(window.file, read_kv_file(std::move(bytes), options));
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState own, engine.load_state(path));
  KVPACK_ASSIGN_OR_RETURN(window.exact, engine.evaluate(window.forced));
  return window;
}

// KL at `low` of one window.
Result<double> kl_of_window(LlamaEngine& engine, const ModelFacts& facts, const StateFolder& folder,
                            const Window& window, const Profile& profile, unsigned threads) {
  EncodeOptions encode;
  encode.quality = Quality::kLow;
  encode.profile = &profile;
  encode.threads = threads;
  MemorySink archive;
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const EncodeReport report,
                          encode_archive(window.file, &facts, encode, archive));
  MemorySource source(archive.bytes());
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(source));
  DecodeOptions decode;
  decode.profile = &profile;
  decode.threads = threads;
  KVPACK_ASSIGN_OR_RETURN(const Bytes restored, restore_file(reader, decode));
  const std::string path = folder.file("restored.bin");
  KVPACK_ASSIGN_OR_RETURN(const auto file, AtomicFile::create(path, /*overwrite=*/true));
  KVPACK_RETURN_IF_ERROR(file->write(restored));
  KVPACK_RETURN_IF_ERROR(file->commit());
  KVPACK_ASSIGN_OR_RETURN([[maybe_unused]] const RestoredState state, engine.load_state(path));
  KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, engine.evaluate(window.forced));
  KVPACK_ASSIGN_OR_RETURN(const PredictionDistance distance, compare_predictions(window.exact, logits, window.targets));
  return distance.kl;
}

}  // namespace

void scale_profile(Profile& profile, double scale) {
  for (ProfilePlane& plane : profile.planes) {
    for (HeadMatrix& basis : plane.basis) {
      for (float& row_scale : basis.scale) row_scale = static_cast<float>(row_scale * scale);
    }
    for (float& deviation : plane.deviation) deviation = static_cast<float>(deviation / scale);
    for (float& sensitivity : plane.sensitivity) sensitivity = static_cast<float>(sensitivity / (scale * scale));
  }
}

Result<Calibration> calibrate_profile(Profile& profile, const std::string& model_path, const ModelFacts& facts,
                                      const std::vector<std::string>& texts, const CalibrationOptions& options) {
  const StateFolder folder;
  if (!folder.ok()) return io_error("no temporary folder for the engine's state files");
  EngineOptions engine_options;
  engine_options.n_ctx = options.window_tokens + 1;
  engine_options.threads =
      static_cast<int>(options.threads > 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency()));
  KVPACK_ASSIGN_OR_RETURN(LlamaEngine engine, LlamaEngine::open("", model_path, engine_options));
  std::vector<std::vector<int32_t>> long_enough;
  for (const std::string& text : texts) {
    KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, engine.tokenize(text));
    if (tokens.size() > options.window_tokens) long_enough.push_back(std::move(tokens));
  }
  if (long_enough.empty()) {
    return invalid_argument(fmt::format("no text has more than {} tokens to set the unit by", options.window_tokens));
  }
  std::vector<Window> windows;
  for (const auto* tokens : {&long_enough.front(), &long_enough.back()}) {
    if (windows.size() == long_enough.size()) break;
    KVPACK_ASSIGN_OR_RETURN(Window window, make_window(engine, facts, folder, *tokens, options.window_tokens));
    windows.push_back(std::move(window));
  }
  const auto kl_of = [&](const Window& window, const Profile& tried) {
    return kl_of_window(engine, facts, folder, window, tried, options.threads);
  };
  // The window that loses more: texts of another kind than most are to be good, too.
  double kl = 0;
  const Window* worse = nullptr;
  for (const Window& window : windows) {
    KVPACK_ASSIGN_OR_RETURN(const double of_window, kl_of(window, profile));
    if (worse == nullptr || of_window > kl) worse = &window;
    kl = std::max(kl, of_window);
  }
  Calibration found;
  Profile fine = profile;
  scale_profile(fine, kFloorScale);
  KVPACK_ASSIGN_OR_RETURN(found.floor, kl_of(*worse, fine));
  for (int trial = 1;; ++trial) {
    found.kl = std::max(kl - found.floor, 1e-6);
    const double excess = std::log(found.kl / kLowKl);
    if (std::fabs(excess) < kCloseEnough || trial == kMostTrials) break;
    const double factor = std::clamp(std::exp(-excess / kSlope), 1.0 / 8, 8.0);
    scale_profile(profile, factor);
    found.scale *= factor;
    KVPACK_ASSIGN_OR_RETURN(kl, kl_of(*worse, profile));
  }
  return found;
}

}  // namespace kvpack::engine
