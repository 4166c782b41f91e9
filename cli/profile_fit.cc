// SPDX-License-Identifier: Apache-2.0
// kvpack profile fit: for those who have KV files but no engine. Of a GGUF, the output projections are read, too.
#include "codec/profile_fit.h"

#include <fmt/format.h>

#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/profile.h"
#include "cli/quantities.h"
#include "codec/attention_layers.h"
#include "codec/profile_file.h"

namespace kvpack::cli {
namespace {

using Grams = std::map<uint32_t, std::vector<float>>;

// What each KV head's values are multiplied with, where `path` is a GGUF whose weights can be read.
Grams output_grams(const std::string& path, const ModelFacts& facts) {
  const auto source = open_file_source(path);
  if (!source.ok()) return {};
  const auto weights = ModelWeights::open(**source, /*threads=*/0);
  if (!weights.ok()) return {};  // a config.json or model.json
  const auto attention = read_attention_layers(*weights, facts, /*threads=*/0);
  if (!attention.ok()) return {};
  Grams grams;
  for (const AttentionLayer& layer : attention->layers) {
    const size_t size = size_t{layer.value_dim} * layer.value_dim;
    std::vector<float>& sums = grams[layer.layer];
    sums.resize(layer.kv_heads * size);
    for (uint32_t head = 0; head < layer.query_heads; ++head) {
      for (size_t i = 0; i < size; ++i) sums[head / layer.group() * size + i] += layer.output_gram[head * size + i];
    }
  }
  return grams;
}

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
