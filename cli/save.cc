// SPDX-License-Identifier: Apache-2.0
#include "cli/save.h"

#include <fmt/format.h>

#include "cli/option_types.h"
#include "net/engine/engine_model.h"

namespace kvpack::cli {
namespace {

// The file of the model that the engine runs, checked against what the engine says.
Result<std::string> model_path_of(LlamaServer& engine, const std::string& given) {
  KVPACK_ASSIGN_OR_RETURN(const EngineFacts facts, engine.facts());
  KVPACK_ASSIGN_OR_RETURN(const auto model, find_engine_model(engine, facts, given));
  if (model) return model->path;
  return with_hint(
      invalid_argument(fmt::format("{} runs '{}', which is not to be seen from here", engine.name(), facts.model_path)),
      "name the model file with --model");
}

}  // namespace

void declare_save(CLI::App& verb, SaveArguments& arguments) {
  declare_engine(verb, arguments.engine, "the engine that has the context")->required();
  add_range(verb, "--range", arguments.range,
            "only the tokens at these positions; blend joins them with others, and load puts them behind what a slot "
            "holds up to there");
  declare_encoding(verb, arguments.encode);
  verb.get_option("--model")->description("the model file that the engine runs (default: the one that it names)");
  verb.footer(
      "Examples:\n"
      "  kvpack save --engine llama-server=http://127.0.0.1:8080 --slot-save-path slots -o ctx.kvp\n"
      "  kvpack save --engine llama-server=http://127.0.0.1:8080 --slot-save-path slots --range 100:356 -o part.kvp\n"
      "  kvpack save --engine llama-server=http://127.0.0.1:8080 --slot-save-path slots --slot 2 --quality high \\\n"
      "      -o - | ssh host 'cat > ctx.kvp'");
}

Result<int> run_save(const SaveArguments& arguments, Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const auto engine, open_engine(arguments.engine));
  EncodeArguments encode = arguments.encode;
  encode.input = fmt::format("slot {} of {}", arguments.engine.slot, engine->name());
  KVPACK_ASSIGN_OR_RETURN(encode.model, model_path_of(*engine, arguments.encode.model));
  IndexRange range;
  if (!arguments.range.empty()) {
    KVPACK_ASSIGN_OR_RETURN(range, parse_range(arguments.range));
  }
  const KvOpener open = [&](const KvReadOptions& options) -> Result<KvFile> {
    KVPACK_ASSIGN_OR_RETURN(
        auto state, arguments.range.empty() ? engine->export_kv() : engine->export_range({range.begin, range.end}));
    auto file = read_kv_file(std::move(state), options);
    if (!file.ok()) return about_file(file.error(), encode.input);
    if (file->tokens.empty()) return invalid_argument(encode.input + " holds no tokens");
    return file;
  };
  return encode_opened(encode, open, console);
}

}  // namespace kvpack::cli
