// SPDX-License-Identifier: Apache-2.0
#include "net/engine/llama_engine.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "formats/bytes.h"
#include "formats/llama_state.h"
#include "net/engine/libllama_backends.h"
#include "net/engine/libllama_log.h"

namespace kvpack::engine {
namespace {

constexpr uint32_t kBatchTokens = 512;
// Logits are taken in small batches: a row is a whole vocabulary (1 MB with Gemma).
constexpr uint32_t kLogitBatchTokens = 64;

constexpr int32_t kMain = 0;
constexpr int32_t kSide = 1;  // with EngineOptions::ranges; empty but while a range is at work

Error engine_error(const std::string& message) { return log_error("llama.cpp: " + message); }

llama_context_params context_params(const EngineOptions& options) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.n_ctx * options.streams;
  params.n_batch = kBatchTokens;
  params.n_ubatch = kBatchTokens;
  params.n_seq_max = options.ranges ? 2 : options.streams;
  params.kv_unified = options.streams == 1;
  params.n_threads = options.threads;
  params.n_threads_batch = options.threads;
  params.type_k = static_cast<ggml_type>(options.key_type);
  params.type_v = static_cast<ggml_type>(options.value_type);
  params.flash_attn_type = options.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  return params;
}

// In memory v0.5.0 puts two words before what a file holds: this, and the sequence's number.
constexpr uint32_t kMemoryMagic = 0xaf143cd8;
constexpr size_t kMemoryHeaderBytes = 8;

ByteSpan memory_header(ByteSpan data) {
  uint32_t first = 0;
  if (data.size() < kMemoryHeaderBytes) return {};
  std::memcpy(&first, data.data(), sizeof first);
  return data.first(first == kMemoryMagic ? kMemoryHeaderBytes : 0);
}

// `data` as llama.cpp gives it in memory, behind what a file of it begins with.
Bytes state_file(std::span<const int32_t> tokens, ByteSpan data) {
  ByteWriter state;
  for (const uint32_t word : {kLlamaSequenceMagic, kLlamaSequenceVersion, static_cast<uint32_t>(tokens.size())}) {
    state.write(word);
  }
  state.write_bytes(std::as_bytes(tokens));
  state.write_bytes(data.subspan(memory_header(data).size()));
  return state.take();
}

}  // namespace

void LlamaEngine::FreeModel::operator()(llama_model* model) const { llama_model_free(model); }
void LlamaEngine::FreeContext::operator()(llama_context* context) const { llama_free(context); }

Result<LlamaEngine> LlamaEngine::open(const std::string& library_folder, const std::string& model_path,
                                      const EngineOptions& options) {
  if (options.ranges && options.streams != 1) return invalid_argument("ranges need a cache with one stream");
  keep_last_log_error();
  if (!load_backends(library_folder)) return engine_error(library_folder + ": holds no backend");

  LlamaEngine engine;
  engine.model_.reset(llama_model_load_from_file(model_path.c_str(), llama_model_default_params()));
  if (engine.model_ == nullptr) return engine_error(model_path + ": cannot be loaded");
  engine.context_.reset(llama_init_from_model(engine.model_.get(), context_params(options)));
  if (engine.context_ == nullptr) return engine_error(model_path + ": no context of the kind that was asked for");
  return engine;
}

Status widen_model(const std::string& library_folder, const std::string& in, const std::string& out) {
  keep_last_log_error();
  if (!load_backends(library_folder)) return engine_error(library_folder + ": holds no backend");
  llama_model_quantize_params parameters = llama_model_quantize_default_params();
  parameters.ftype = LLAMA_FTYPE_ALL_F32;
  parameters.allow_requantize = true;
  const uint32_t answer = llama_model_quantize(in.c_str(), out.c_str(), &parameters);
  if (answer != 0) return engine_error(fmt::format("{}: widening its weights: answer {}", in, answer));
  return {};
}

Result<std::vector<int32_t>> LlamaEngine::tokenize(std::string_view text, bool markup) const {
  const llama_vocab* vocabulary = llama_model_get_vocab(model_.get());
  const auto length = static_cast<int32_t>(text.size());
  std::vector<int32_t> tokens(text.size() + 8);  // a token is a byte at least; and the special ones
  const int32_t count = llama_tokenize(vocabulary, text.data(), length, tokens.data(),
                                       static_cast<int32_t>(tokens.size()), /*add_special=*/!markup,
                                       /*parse_special=*/markup);
  if (count < 0) return engine_error(fmt::format("tokenize: answer {} for {} bytes", count, length));
  tokens.resize(static_cast<size_t>(count));
  return tokens;
}

uint32_t LlamaEngine::next_position(int32_t sequence) const {
  return static_cast<uint32_t>(llama_memory_seq_pos_max(llama_get_memory(context_.get()), sequence) + 1);
}

Status LlamaEngine::decode(int32_t sequence, const int32_t* tokens, uint32_t count, bool want_logits) {
  llama_batch batch = llama_batch_init(static_cast<int32_t>(count), 0, 1);
  batch.n_tokens = static_cast<int32_t>(count);
  const uint32_t first = next_position(sequence);
  for (uint32_t i = 0; i < count; ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = static_cast<int32_t>(first + i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = want_logits ? 1 : 0;
  }
  const int32_t answer = llama_decode(context_.get(), batch);
  llama_batch_free(batch);
  if (answer != 0) return engine_error(fmt::format("decode of {} tokens at {}: answer {}", count, first, answer));
  return {};
}

Status LlamaEngine::prefill(const std::vector<int32_t>& tokens) {
  llama_memory_clear(llama_get_memory(context_.get()), true);
  return append(tokens);
}

Status LlamaEngine::append(std::span<const int32_t> tokens) {
  for (size_t done = 0; done < tokens.size(); done += kBatchTokens) {
    const auto count = static_cast<uint32_t>(std::min<size_t>(kBatchTokens, tokens.size() - done));
    KVPACK_RETURN_IF_ERROR(decode(kMain, tokens.data() + done, count, /*want_logits=*/false));
  }
  return {};
}

Result<uint64_t> LlamaEngine::save_state(const std::string& path, const std::vector<int32_t>& tokens) {
  const size_t written = llama_state_seq_save_file(context_.get(), path.c_str(), 0, tokens.data(), tokens.size());
  if (written == 0) return engine_error(path + ": the state cannot be written");
  return uint64_t{written};
}

Result<RestoredState> LlamaEngine::load_state(const std::string& path) {
  llama_memory_clear(llama_get_memory(context_.get()), true);
  RestoredState restored;
  restored.payload.resize(llama_n_ctx(context_.get()) + 64);  // room for a packed payload's own words
  size_t count = 0;
  restored.bytes_read = llama_state_seq_load_file(context_.get(), path.c_str(), 0, restored.payload.data(),
                                                  restored.payload.size(), &count);
  if (restored.bytes_read == 0) return engine_error(path + ": the state is refused");
  restored.payload.resize(count);
  restored.cached_tokens = next_position(kMain);
  return restored;
}

Result<Bytes> LlamaEngine::sequence_data(int32_t sequence) const {
  Bytes data(llama_state_seq_get_size(context_.get(), sequence));
  const size_t written =
      llama_state_seq_get_data(context_.get(), reinterpret_cast<uint8_t*>(data.data()), data.size(), sequence);
  if (written == 0) return engine_error("the state cannot be exported");
  data.resize(written);
  return data;
}

Result<Bytes> LlamaEngine::export_state(std::span<const int32_t> tokens) const {
  KVPACK_ASSIGN_OR_RETURN(const Bytes data, sequence_data(kMain));
  return state_file(tokens, data);
}

Result<RestoredState> LlamaEngine::fill_sequence(int32_t sequence, ByteSpan state) {
  ByteReader reader(state);
  KVPACK_ASSIGN_OR_RETURN(const uint32_t magic, reader.read<uint32_t>("magic"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t version, reader.read<uint32_t>("version"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t words, reader.read<uint32_t>("number of tokens"));
  if (magic != kLlamaSequenceMagic || version != kLlamaSequenceVersion) {
    return unsupported(fmt::format("not a sequence state of version {}", kLlamaSequenceVersion));
  }
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan payload, reader.take(uint64_t{words} * sizeof(int32_t), "tokens"));
  llama_memory_seq_rm(llama_get_memory(context_.get()), sequence, -1, -1);
  RestoredState restored;
  restored.payload.resize(words);
  std::memcpy(restored.payload.data(), payload.data(), payload.size());
  // As this llama.cpp would have given it.
  KVPACK_ASSIGN_OR_RETURN(const Bytes nothing, sequence_data(sequence));
  const ByteSpan header = memory_header(nothing);
  Bytes data(header.begin(), header.end());
  const ByteSpan cells = state.subspan(reader.offset());
  data.insert(data.end(), cells.begin(), cells.end());
  const size_t read =
      llama_state_seq_set_data(context_.get(), reinterpret_cast<const uint8_t*>(data.data()), data.size(), sequence);
  if (read == 0) return engine_error("the state is refused");
  restored.bytes_read = reader.offset() + read - header.size();
  restored.cached_tokens = next_position(sequence);
  return restored;
}

Result<RestoredState> LlamaEngine::import_state(ByteSpan state) {
  llama_memory_clear(llama_get_memory(context_.get()), true);
  return fill_sequence(kMain, state);
}

Result<Bytes> LlamaEngine::export_range(std::span<const int32_t> tokens, uint32_t begin) {
  llama_memory_t memory = llama_get_memory(context_.get());
  const auto end = static_cast<int32_t>(begin + tokens.size());
  llama_memory_seq_cp(memory, kMain, kSide, static_cast<int32_t>(begin), end);
  const auto data = sequence_data(kSide);
  llama_memory_seq_rm(memory, kSide, -1, -1);
  KVPACK_RETURN_IF_ERROR(data);
  return state_file(tokens, *data);
}

Result<std::pair<uint32_t, uint32_t>> LlamaEngine::import_range(ByteSpan state) {
  llama_memory_t memory = llama_get_memory(context_.get());
  const auto filled = fill_sequence(kSide, state);
  const int32_t begin = llama_memory_seq_pos_min(memory, kSide);
  const int32_t end = llama_memory_seq_pos_max(memory, kSide) + 1;
  if (filled.ok() && end > 0) {
    llama_memory_seq_rm(memory, kMain, begin, end);
    llama_memory_seq_cp(memory, kSide, kMain, begin, end);
  }
  llama_memory_seq_rm(memory, kSide, -1, -1);
  KVPACK_RETURN_IF_ERROR(filled);
  return std::pair(static_cast<uint32_t>(std::max(begin, 0)), static_cast<uint32_t>(end - std::max(begin, 0)));
}

Status LlamaEngine::compute(std::span<const int32_t> tokens, uint32_t begin) {
  llama_memory_t memory = llama_get_memory(context_.get());
  const auto from = static_cast<int32_t>(begin);
  // A sequence is computed at its end only, so a second one takes what is in front, and goes on from there.
  llama_memory_seq_cp(memory, kMain, kSide, 0, from);
  Status status;
  for (size_t done = 0; done < tokens.size() && status.ok(); done += kBatchTokens) {
    const auto count = static_cast<uint32_t>(std::min<size_t>(kBatchTokens, tokens.size() - done));
    status = decode(kSide, tokens.data() + done, count, /*want_logits=*/false);
  }
  if (status.ok()) llama_memory_seq_cp(memory, kSide, kMain, from, from + static_cast<int32_t>(tokens.size()));
  llama_memory_seq_rm(memory, kSide, -1, -1);
  return status;
}

EngineFacts LlamaEngine::facts() const {
  EngineFacts facts;
  facts.context_tokens = llama_n_ctx_seq(context_.get());
  facts.vocabulary = static_cast<uint32_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));
  facts.embedding = static_cast<uint32_t>(llama_model_n_embd(model_.get()));
  facts.parameters = llama_model_n_params(model_.get());
  return facts;
}

Status LlamaEngine::forget(uint32_t begin, uint32_t end) {
  if (llama_memory_seq_rm(llama_get_memory(context_.get()), 0, static_cast<int32_t>(begin), static_cast<int32_t>(end)))
    return {};
  return engine_error(fmt::format("positions {} to {} cannot be dropped", begin, end));
}

Result<LogitMatrix> LlamaEngine::evaluate(const std::vector<int32_t>& tokens) {
  LogitMatrix logits;
  logits.vocabulary = static_cast<uint32_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));
  logits.values.reserve(tokens.size() * logits.vocabulary);
  for (size_t done = 0; done < tokens.size(); done += kLogitBatchTokens) {
    const auto count = static_cast<uint32_t>(std::min<size_t>(kLogitBatchTokens, tokens.size() - done));
    KVPACK_RETURN_IF_ERROR(decode(kMain, tokens.data() + done, count, /*want_logits=*/true));
    for (uint32_t i = 0; i < count; ++i) {
      const float* row = llama_get_logits_ith(context_.get(), static_cast<int32_t>(i));
      if (row == nullptr) return engine_error(fmt::format("no logits for token {}", done + i));
      logits.values.insert(logits.values.end(), row, row + logits.vocabulary);
    }
  }
  return logits;
}

Result<std::vector<int32_t>> LlamaEngine::continue_greedily(int32_t first, uint32_t count) {
  std::vector<int32_t> tokens;
  int32_t last = first;
  for (uint32_t i = 0; i < count; ++i) {
    KVPACK_ASSIGN_OR_RETURN(const LogitMatrix logits, evaluate({last}));
    last = static_cast<int32_t>(std::max_element(logits.values.begin(), logits.values.end()) - logits.values.begin());
    tokens.push_back(last);
  }
  return tokens;
}

uint32_t LlamaEngine::head_dim_from_metadata(const char* key) const {
  std::array<char, 128> text{};
  llama_model_meta_val_str(model_.get(), "general.architecture", text.data(), text.size());
  const std::string full_key = fmt::format("{}.attention.{}", text.data(), key);
  if (llama_model_meta_val_str(model_.get(), full_key.c_str(), text.data(), text.size()) > 0) {
    return static_cast<uint32_t>(std::atoi(text.data()));
  }
  return static_cast<uint32_t>(llama_model_n_embd(model_.get()) / llama_model_n_head(model_.get()));
}

uint32_t LlamaEngine::key_head_dim() const { return head_dim_from_metadata("key_length"); }
uint32_t LlamaEngine::value_head_dim() const { return head_dim_from_metadata("value_length"); }

}  // namespace kvpack::engine
