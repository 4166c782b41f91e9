// SPDX-License-Identifier: Apache-2.0
#include "cli/model.h"

#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"

namespace kvpack::cli {

void declare_model(CLI::App& verb, ModelArguments& arguments) {
  verb.add_option("MODEL", arguments.input, ".gguf, a transformers config.json, or kvpack's model.json")
      ->type_name(kFileType)
      ->required();
  verb.add_option("-o,--output", arguments.output, "file to write (default: standard output)")->type_name(kFileType);
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing file");
  verb.footer(
      "Only the model's header is read. The JSON serves as --model wherever the model file would.\n\n"
      "Examples:\n"
      "  kvpack model model.gguf\n"
      "  kvpack model model.gguf -o model.json\n"
      "  kvpack encode slot.bin --model model.json -o ctx.kvp");
}

Result<int> run_model(const ModelArguments& arguments, Console& console) {
  constexpr bool kBinary = false;
  KVPACK_ASSIGN_OR_RETURN(const auto output,
                          OutputFile::prepare(arguments.output, arguments.overwrite, {arguments.input}, kBinary));
  KVPACK_ASSIGN_OR_RETURN(const ModelFacts facts, read_model(arguments.input));
  std::string text = model_facts_to_json(facts);
  if (!text.ends_with('\n')) text += '\n';
  KVPACK_RETURN_IF_ERROR(output->write(as_byte_span(text)));
  KVPACK_RETURN_IF_ERROR(output->commit());
  if (!facts.note.empty()) console.note(arguments.input + ": " + facts.note);
  return kExitOk;
}

}  // namespace kvpack::cli
