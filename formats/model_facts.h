// SPDX-License-Identifier: Apache-2.0
// What kvpack needs to know of a model, and nothing else: shapes per layer, RoPE, sliding windows, a fingerprint.
// Three sources with one meaning: a GGUF's metadata, a transformers config.json, kvpack's own model.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

// How pairs of channels are rotated (RoFormer, arXiv 2104.09864; names as in llama.cpp):
// kNorm pairs channels 2j and 2j+1; kNeox pairs j and j + dims/2.
enum class RopeStyle : uint8_t { kNone = 0, kNorm = 1, kNeox = 2 };

// The rotation of one kind of layer. Pair j of a token at position p is turned by p * inv_freq[j] and scaled by
// `magnitude` (YaRN's attention factor; 1 otherwise). Scaling of any kind is already in inv_freq.
struct Rope {
  RopeStyle style = RopeStyle::kNone;
  uint32_t first_channel = 0;  // first rotated channel of a head (MLA: 512; else 0)
  double base = 0;             // for display
  double magnitude = 1;
  std::vector<double> inv_freq;  // [rotated channels / 2], radians per position

  uint32_t dims() const { return static_cast<uint32_t>(inv_freq.size() * 2); }
  bool operator==(const Rope&) const = default;
};

struct LayerFacts {
  uint32_t kv_heads = 0;   // 0: the layer has no KV cache (recurrent, or shares another layer's)
  uint32_t key_dim = 0;    // head_dim of K
  uint32_t value_dim = 0;  // head_dim of V; 0: K only (MLA)
  int32_t rope = -1;       // index into ModelFacts::ropes, -1: none or unknown
  bool sliding = false;    // sliding-window attention
  bool recurrent = false;  // holds recurrent state instead of (or beside) KV
};

struct ModelFacts {
  std::string architecture;  // GGUF's general.architecture or transformers' model_type
  std::string name;
  std::string fingerprint;  // "gguf:" or "config:" + 32 hex digits; equal only for the same model file
  std::vector<LayerFacts> layers;
  std::vector<Rope> ropes;
  uint32_t sliding_window = 0;      // tokens; 0: none
  uint32_t context_length = 0;      // tokens; 0: unknown
  bool multi_section_rope = false;  // M-RoPE: cells carry extra position words
  std::string note;                 // why RoPE is unknown, if it is
};

inline constexpr uint32_t kMaxLayers = 1024;
inline constexpr uint32_t kMaxKvHeads = 1024;
inline constexpr uint32_t kMaxHeadDim = 8192;

// From a model file of any of the three kinds, told apart by content. Reads only what it needs (of a GGUF the
// metadata and the rope_freqs tensor), bounded. Errors name the file, the key and the offset.
Result<ModelFacts> read_model_facts(const std::string& path);
// kvpack's model.json (FORMAT.md, "model.json") to and from text.
Result<ModelFacts> model_facts_from_json(std::string_view text);
std::string model_facts_to_json(const ModelFacts& facts);
// A transformers config.json.
Result<ModelFacts> model_facts_from_config(std::string_view text);

}  // namespace kvpack
