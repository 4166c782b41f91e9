// SPDX-License-Identifier: Apache-2.0
#include "formats/architectures.h"

#include <algorithm>
#include <array>
#include <utility>

namespace kvpack {
namespace {

constexpr auto kUnrotated = std::to_array<std::string_view>({
    "gpt2",           "gptj",        "mpt",       "refact", "bloom",      "mamba", "mamba2", "jamba",
    "jina-bert-v2",   "t5",          "jais",      "rwkv6",  "rwkv6qwen2", "rwkv7", "arwkv7", "nemotron_h",
    "nemotron_h_moe", "kimi-linear", "t5encoder",
});

constexpr auto kNormNames = std::to_array<std::string_view>({
    "llama",     "llada",      "llama4",      "deci",      "baichuan", "starcoder",  "internlm2",
    "minicpm",   "xverse",     "command-r",   "cohere2",   "olmo",     "arctic",     "deepseek",
    "deepseek2", "deepseek32", "plm",         "chatglm",   "granite",  "granitemoe", "granitehybrid",
    "chameleon", "bailingmoe", "neo-bert",    "smollm3",   "arcee",    "ernie4_5",   "ernie4_5-moe",
    "mistral3",  "mistral4",   "llama-embed", "maincoder", "glm-dsa",  "glm4",
});

constexpr auto kNeoxNames = std::to_array<std::string_view>({
    "falcon",          "falcon-h1",  "dbrx",          "bert",       "nomic-bert",     "nomic-bert-moe", "stablelm",
    "bitnet",          "qwen",       "qwen2",         "dream",      "qwen2moe",       "qwen3",          "qwen3moe",
    "llada-moe",       "rnd1",       "olmo2",         "olmoe",      "phi2",           "phi3",           "phimoe",
    "plamo",           "plamo2",     "gemma",         "gemma2",     "gemma3",         "gemma3n",        "gemma4",
    "gemma-embedding", "starcoder2", "openelm",       "gptneox",    "codeshell",      "orion",          "nemotron",
    "exaone",          "exaone4",    "exaone-moe",    "minicpm3",   "bailingmoe2",    "dots1",          "hunyuan-moe",
    "jais2",           "gpt-oss",    "hunyuan-dense", "lfm2",       "lfm2moe",        "smallthinker",   "seed_oss",
    "grovemoe",        "apertus",    "minimax-m2",    "minimax-m3", "pangu-embedded", "afmoe",          "qwen3next",
    "plamo3",          "glm4moe",    "mellum",
});

constexpr auto kSectionNames = std::to_array<std::string_view>({
    "qwen2vl",
    "paddleocr",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen35",
    "qwen35moe",
    "qwen4exp",
    "qwen3tts",
    "hunyuan_vl",
});

// The last rope.dimension_count channels of a key are rotated, the others are not.
constexpr auto kTailNames = std::to_array<std::string_view>({
    "deepseek2",
    "deepseek32",
    "glm-dsa",
    "mistral4",
    "minicpm3",
    "plm",
});

constexpr auto kRecurrentNames = std::to_array<std::string_view>({
    "mamba",
    "mamba2",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "arwkv7",
    "falcon-h1",
});

constexpr auto kHybridNames = std::to_array<std::string_view>({
    "jamba",
    "lfm2",
    "lfm2moe",
    "plamo2",
    "granitehybrid",
    "nemotron_h",
    "nemotron_h_moe",
    "kimi-linear",
});

constexpr auto kIntervals = std::to_array<std::pair<std::string_view, uint32_t>>({
    {"qwen3next", 4},
    {"qwen35", 4},
    {"qwen35moe", 4},
    {"qwen4exp", 4},
});

constexpr auto kSlidingRules = std::to_array<SlidingRule>({
    {.architecture = "afmoe", .period = 4},
    {.architecture = "cohere2", .period = 4},
    {.architecture = "exaone-moe", .period = 4, .default_window = 128},
    {.architecture = "exaone4", .period = 4, .default_window = 4096, .only_with_layers = 64},
    {.architecture = "gemma-embedding", .period = 6, .base = 10000, .scale = SlidingScale::kUnscaled},
    {.architecture = "gemma2", .period = 2, .default_window = 4096},
    {.architecture = "gemma3", .period = 6, .base = 10000, .scale = SlidingScale::kUnscaled},
    {.architecture = "gemma3n", .period = 5, .base = 10000, .scale = SlidingScale::kUnscaled},
    {.architecture = "gemma4", .period = SlidingRule::kListedOnly, .base = 10000, .scale = SlidingScale::kUnscaled},
    {.architecture = "gpt-oss", .period = 2},
    {.architecture = "lfm2", .period = 0},
    {.architecture = "lfm2moe", .period = 0},
    {.architecture = "llama4", .period = 4, .default_window = 8192},
    {.architecture = "mellum", .period = 4, .scale = SlidingScale::kPlain},
    {.architecture = "olmo2", .period = 4, .scale = SlidingScale::kPlain},
    {.architecture = "plamo3", .period = 8, .base = 10000, .scale = SlidingScale::kUnscaled},
    {.architecture = "smallthinker", .period = 4, .full_first = true},
});

constexpr auto kNoRopeRules = std::to_array<std::pair<std::string_view, NoRope>>({
    {"afmoe", NoRope::kEveryFourth},
    {"cohere2", NoRope::kFullLayers},
    {"exaone-moe", NoRope::kFullLayers},
    {"exaone4", NoRope::kFullLayers},
    {"granite", NoRope::kUnlessMarkedFinetuned},
    {"granitemoe", NoRope::kUnlessMarkedFinetuned},
    {"granitehybrid", NoRope::kUnlessMarkedFinetuned},
    {"llama4", NoRope::kEveryFourthIfSliding},
    {"smallthinker", NoRope::kFirstOfFourIfSliding},
    {"smollm3", NoRope::kEveryFourth},
});

// From conversion/*.py of llama.cpp: those that permute the rows of the key projection. The last names are
// transformers' for models whose GGUF says "llama".
constexpr auto kPermutedNames = std::to_array<std::string_view>({
    "llama",      "llada",   "deci",     "baichuan", "internlm2",   "minicpm",       "xverse",
    "olmo",       "arctic",  "deepseek", "granite",  "granitemoe",  "granitehybrid", "chameleon",
    "bailingmoe", "smollm3", "arcee",    "mistral3", "llama-embed", "mistral",       "mixtral",
});

template <typename Names>
bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <typename Rules, typename Value>
Value find_rule(const Rules& rules, std::string_view name, Value otherwise) {
  for (const auto& [architecture, value] : rules) {
    if (architecture == name) return value;
  }
  return otherwise;
}

RopeKind find_rope_kind(std::string_view name) {
  if (contains(kUnrotated, name)) return RopeKind::kNone;
  if (contains(kNormNames, name)) return RopeKind::kNorm;
  if (contains(kNeoxNames, name)) return RopeKind::kNeox;
  if (contains(kSectionNames, name)) return RopeKind::kSections;
  return RopeKind::kUnknown;
}

ModelFacts with_style(ModelFacts facts, RopeStyle style) {
  if (!architecture_permutes_heads(facts.architecture)) return facts;
  for (Rope& rope : facts.ropes) {
    if (rope.style != RopeStyle::kNone) rope.style = style;
  }
  return facts;
}

}  // namespace

Architecture find_architecture(std::string_view name) {
  Architecture found;
  found.rope = find_rope_kind(name);
  found.rope_at_tail = contains(kTailNames, name);
  found.recurrent = contains(kRecurrentNames, name);
  found.hybrid = contains(kHybridNames, name);
  found.full_attention_interval = find_rule(kIntervals, name, 0u);
  found.no_rope = find_rule(kNoRopeRules, name, NoRope::kNever);
  for (const SlidingRule& rule : kSlidingRules) {
    if (rule.architecture == name) found.sliding = &rule;
  }
  return found;
}

bool architecture_permutes_heads(std::string_view name) { return contains(kPermutedNames, name); }

ModelFacts with_transformers_layout(ModelFacts facts) { return with_style(std::move(facts), RopeStyle::kNeox); }
ModelFacts with_llama_cpp_layout(ModelFacts facts) { return with_style(std::move(facts), RopeStyle::kNorm); }

}  // namespace kvpack
