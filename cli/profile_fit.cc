// SPDX-License-Identifier: Apache-2.0
// kvpack profile fit: for those who have KV files but no engine. A build with llama.cpp also reads a GGUF's weights.
#include "codec/profile_fit.h"

#include <fmt/format.h>

#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/profile.h"
#include "cli/quantities.h"
#include "codec/profile_file.h"
#ifdef KVPACK_HAVE_LIBLLAMA
#include "net/engine/output_projection.h"
#endif

namespace kvpack::cli {
namespace {

using Grams = std::map<uint32_t, std::vector<float>>;

#ifdef KVPACK_HAVE_LIBLLAMA

// What each KV head's values are multiplied with, where `path` is a GGUF whose weights can be read.
Grams output_grams(const std::string& path, const ModelFacts& facts) {
  Grams grams;
  const auto source = open_file_source(path);
  if (!source.ok()) return grams;
  const auto gguf = read_gguf(**source);
  if (!gguf.ok()) return grams;  // a config.json or model.json
  for (uint32_t layer = 0; layer < facts.layers.size(); ++layer) {
    const LayerFacts& fact = facts.layers[layer];
    if (fact.kv_heads == 0 || fact.value_dim == 0) continue;
    const auto projection = engine::read_output_projection(**source, *gguf, layer, fact.value_dim, /*threads=*/0);
    if (!projection.ok() || projection->query_heads % fact.kv_heads != 0) return {};
    const size_t size = size_t{fact.value_dim} * fact.value_dim;
    const uint32_t group = projection->query_heads / fact.kv_heads;
    std::vector<float>& sums = grams[layer];
    sums.resize(fact.kv_heads * size);
    for (uint32_t head = 0; head < projection->query_heads; ++head) {
      for (size_t i = 0; i < size; ++i) sums[head / group * size + i] += projection->gram[head * size + i];
    }
  }
  return grams;
}

#else

Grams output_grams(const std::string&, const ModelFacts&) { return {}; }

#endif

}  // namespace

void declare_profile_fit(CLI::App& verb, ProfileFitArguments& arguments) {
  verb.add_option("IN", arguments.inputs, "KV files of the model: llama.cpp states, safetensors or npy")
      ->type_name(kFileType)
      ->required();
  verb.add_option("-m,--model", arguments.model, "the model: .gguf, config.json or kvpack's model.json")
      ->type_name(kFileType)
      ->required();
  verb.add_option("-o,--output", arguments.output, "profile to write")->type_name(kFileType)->required();
  verb.add_flag("--no-hadamard", arguments.no_hadamard,
                "quantized caches were saved with LLAMA_ATTN_ROT_DISABLE=1 (not rotated)");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing profile");
  verb.footer(
      "What only the model's queries could tell is guessed: prefer `kvpack profile train` where llama.cpp can run.\n\n"
      "Examples:\n"
      "  kvpack profile fit a.slot.bin b.slot.bin --model model.gguf -o model.kvprofile");
}

Result<int> run_profile_fit(const ProfileFitArguments& arguments, Console& console) {
  std::vector<std::string> inputs = arguments.inputs;
  inputs.push_back(arguments.model);
  KVPACK_ASSIGN_OR_RETURN(const auto output, OutputFile::prepare(arguments.output, arguments.overwrite, inputs));
  if (output->is_stdout()) console.send_reports_to_stderr();
  KVPACK_ASSIGN_OR_RETURN(const ModelFacts facts, read_model(arguments.model));
  ProfileFitter fitter(facts, output_grams(arguments.model, facts));
  for (const std::string& path : arguments.inputs) {
    KVPACK_ASSIGN_OR_RETURN(const KvFile file, read_kv_input(path, &facts, !arguments.no_hadamard));
    if (const Status added = fitter.add(file); !added.ok()) return about_file(added.error(), path);
  }
  KVPACK_ASSIGN_OR_RETURN(const Profile profile, fitter.finish());
  const Bytes bytes = write_profile(profile);
  KVPACK_RETURN_IF_ERROR(output->write(bytes));
  KVPACK_RETURN_IF_ERROR(output->commit());
  if (!console.quiet()) {
    console.print(
        fmt::format("{}: {}, {}\n", arguments.output, short_bytes(static_cast<double>(bytes.size())), profile.method));
  }
  return kExitOk;
}

}  // namespace kvpack::cli
