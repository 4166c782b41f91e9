// SPDX-License-Identifier: Apache-2.0
#include "cli/decode_plan.h"

#include <fmt/format.h>

#include "cli/guard_cell.h"
#include "cli/option_types.h"
#include "formats/key_order.h"

namespace kvpack::cli {
namespace {

KvFileFormat format_from_name(const std::string& name) {
  for (const KvFileFormat format : {KvFileFormat::kSafetensors, KvFileFormat::kNpy}) {
    if (name == kv_file_format_name(format)) return format;
  }
  return KvFileFormat::kLlamaState;
}

Result<DecodeOptions> selection_of(const DecodeArguments& arguments, const ArchiveReader& reader) {
  DecodeOptions options;
  if (!arguments.tokens.empty()) {
    KVPACK_ASSIGN_OR_RETURN(options.positions, parse_range(arguments.tokens));
  }
  if (!arguments.layers.empty()) {
    KVPACK_ASSIGN_OR_RETURN(options.layers, parse_range(arguments.layers));
  }
  const uint32_t levels = reader.directory().levels;
  if (arguments.level && *arguments.level >= levels) {
    return with_hint(invalid_argument(fmt::format("no level {}: the archive has {}", *arguments.level, levels)),
                     fmt::format("levels count from 0; --level {} is the best", levels - 1));
  }
  options.level = arguments.level;
  options.threads = arguments.threads;
  return options;
}

Result<LlamaLayout> layout_of(const DecodeArguments& arguments) {
  LlamaLayout layout;
  layout.streams = arguments.streams;
  layout.stream = arguments.stream;
  if (!arguments.v_layout.empty()) layout.transposed_v = arguments.v_layout == "transposed";
  if (!arguments.payload.empty()) layout.packed_payload = arguments.payload == "packed";
  if (!arguments.cache_type_k.empty()) {
    KVPACK_ASSIGN_OR_RETURN(layout.key_type, dtype_from_name(arguments.cache_type_k));
  }
  if (!arguments.cache_type_v.empty()) {
    KVPACK_ASSIGN_OR_RETURN(layout.value_type, dtype_from_name(arguments.cache_type_v));
  }
  if (layout.streams && layout.stream && *layout.stream >= *layout.streams) {
    return invalid_argument(
        fmt::format("--stream {} of --streams {}: streams count from 0", *layout.stream, *layout.streams));
  }
  return layout;
}

// The guard cell is added where it helps and does no harm: to a lossy copy of a file that llama-server saved. A
// lossless archive gives back its very bytes unless asked otherwise.
Result<bool> wants_guard_cell(const DecodeArguments& arguments, const ArchiveReader& reader,
                              const ArchiveIdentity& identity, bool converts, std::vector<std::string>& notes) {
  const GuardCellOffer offer = guard_cell_offer(reader, identity);
  if (arguments.guard_cell && !offer.possible) {
    return invalid_argument("--swa-guard-cell cannot be had: " + offer.why_not);
  }
  const bool selects = !arguments.tokens.empty() || !arguments.layers.empty();
  const bool packed = arguments.payload.empty() ? offer.from_server : arguments.payload == "packed";
  const bool by_default = offer.possible && packed && !selects && (!identity.lossless || converts);
  const bool wanted = arguments.guard_cell || (by_default && !arguments.no_guard_cell);
  if (wanted) {
    notes.emplace_back(
        "added the guard cell, with which llama-server reuses a sliding-window context (--no-swa-guard-cell: without)");
  } else if (offer.possible && packed && !arguments.no_guard_cell) {
    notes.emplace_back("llama-server will reuse this sliding-window context only with --swa-guard-cell");
  }
  return wanted;
}

Status check_options_fit(const DecodeArguments& arguments, KvFileFormat format, const LlamaLayout& layout) {
  const bool llama = format == KvFileFormat::kLlamaState;
  if (llama && !arguments.dtype.empty()) {
    return with_hint(invalid_argument("--dtype is for safetensors and npy"),
                     "llama.cpp files take --cache-type-k and --cache-type-v");
  }
  if (!llama && (layout.any() || arguments.guard_cell)) {
    return invalid_argument(fmt::format(
        "--streams, --stream, --v-layout, --cache-type-k, --cache-type-v, --payload and --swa-guard-cell are for "
        "llama.cpp files, not {}",
        kv_file_format_name(format)));
  }
  return {};
}

Result<Bytes> write_converted(const ArchiveReader& reader, const ArchiveIdentity& identity, const DecodePlan& plan) {
  std::vector<int32_t> tokens;
  KVPACK_ASSIGN_OR_RETURN(KvTensor tensor, decode_tensor(reader, plan.options, &tokens));
  if (key_order_differs(identity.model_architecture, identity.source_format, plan.format)) {
    KVPACK_ASSIGN_OR_RETURN(tensor, with_key_order_of(plan.format, tensor));
  }
  if (plan.format == KvFileFormat::kSafetensors) return write_safetensors(tensor, tokens, plan.dtype);
  if (plan.format == KvFileFormat::kNpy) return write_npy(tensor, plan.dtype);
  Bytes container;
  if (identity.source_format == KvFileFormat::kLlamaState && reader.has_section(SectionKind::kContainer)) {
    KVPACK_ASSIGN_OR_RETURN(container, reader.section(SectionKind::kContainer));
  }
  return write_llama_state(tensor, tokens, container, plan.layout);
}

}  // namespace

Result<DecodePlan> plan_decode(const DecodeArguments& arguments, const ArchiveReader& reader,
                               const ArchiveIdentity& identity) {
  DecodePlan plan;
  plan.format = arguments.to.empty() ? identity.source_format : format_from_name(arguments.to);
  KVPACK_ASSIGN_OR_RETURN(plan.options, selection_of(arguments, reader));
  KVPACK_ASSIGN_OR_RETURN(plan.layout, layout_of(arguments));
  KVPACK_RETURN_IF_ERROR(check_options_fit(arguments, plan.format, plan.layout));
  if (!arguments.dtype.empty()) {
    KVPACK_ASSIGN_OR_RETURN(plan.dtype, dtype_from_name(arguments.dtype));
  }
  const bool selects = !arguments.tokens.empty() || !arguments.layers.empty();
  const bool converts = plan.format != identity.source_format || plan.layout.any() || plan.dtype.has_value();
  if (plan.format == KvFileFormat::kLlamaState) {
    KVPACK_ASSIGN_OR_RETURN(plan.layout.swa_guard_cell,
                            wants_guard_cell(arguments, reader, identity, converts, plan.notes));
  }
  const bool crosses =
      (identity.source_format == KvFileFormat::kLlamaState) != (plan.format == KvFileFormat::kLlamaState);
  if (crosses && identity.model_fingerprint.empty()) {
    plan.notes.emplace_back(
        "encoded without --model: keys keep their channel order, which llama.cpp and transformers do not share for "
        "Llama and its kin");
  }
  plan.restores_source = !selects && !converts && !plan.layout.swa_guard_cell;
  return plan;
}

Result<Bytes> decode_file(const ArchiveReader& reader, const ArchiveIdentity& identity, const DecodePlan& plan) {
  return plan.restores_source ? restore_file(reader, plan.options) : write_converted(reader, identity, plan);
}

Result<uint64_t> decode_file(const ArchiveReader& reader, const ArchiveIdentity& identity, const DecodePlan& plan,
                             OutputFile& output) {
  if (plan.restores_source) {
    KVPACK_ASSIGN_OR_RETURN(PlacedSink* const file, output.parts());
    if (file != nullptr) return restore_file(reader, plan.options, *file);
  }
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, decode_file(reader, identity, plan));
  KVPACK_RETURN_IF_ERROR(output.write(bytes));
  return bytes.size();
}

}  // namespace kvpack::cli
