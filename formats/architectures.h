// SPDX-License-Identifier: Apache-2.0
// What llama.cpp knows of an architecture without any file saying so: how keys are rotated, which layers slide, which
// layers are not rotated at all. Read from llama.cpp v0.5.0 (llama_model_rope_type and src/models). An architecture
// that is missing here was not checked: its keys are kept as they are.
#pragma once

#include <cstdint>
#include <string_view>

#include "formats/model_facts.h"

namespace kvpack {

enum class RopeKind : uint8_t {
  kUnknown,   // not in the tables
  kNone,      // keys carry no rotation
  kNorm,      // RopeStyle::kNorm
  kNeox,      // RopeStyle::kNeox
  kSections,  // M-RoPE: several positions per token
};

// Layers of an architecture that are left without rotation.
enum class NoRope : uint8_t {
  kNever,
  kFullLayers,             // layers without sliding window, if any layer slides
  kEveryFourth,            // layers 3, 7, 11, ...
  kEveryFourthIfSliding,   // the same, but only if any layer slides
  kFirstOfFourIfSliding,   // layers 0, 4, 8, ... if any layer slides
  kUnlessMarkedFinetuned,  // all, if rope.scaling.finetuned is false (Granite)
};

// How sliding layers are scaled where full layers have a RopeScaling.
// kUnscaled keeps the attention factor, kPlain neither it nor a base of their own.
enum class SlidingScale : uint8_t { kSame, kUnscaled, kPlain };

struct SlidingRule {
  std::string_view architecture;
  uint32_t period = 0;          // layer % period == period - 1 is full; 0: all slide; kListedOnly: the file lists them
  bool full_first = false;      // layer % period == 0 is full instead
  uint32_t default_window = 0;  // if the file names none; 0: then no layer slides
  double base = 0;              // rotation base of sliding layers; 0: the full layers'
  SlidingScale scale = SlidingScale::kSame;
  uint32_t only_with_layers = 0;  // > 0: no layer slides in models of another depth
  static constexpr uint32_t kListedOnly = UINT32_MAX;
};

struct Architecture {
  RopeKind rope = RopeKind::kUnknown;
  bool rope_at_tail = false;             // rotates the last rope.dimension_count channels of a head (latent attention)
  bool recurrent = false;                // every layer holds recurrent state
  bool hybrid = false;                   // layers with 0 KV heads hold recurrent state
  uint32_t full_attention_interval = 0;  // > 0: of so many layers the last has attention, the others recurrent state
  NoRope no_rope = NoRope::kNever;
  const SlidingRule* sliding = nullptr;
};

Architecture find_architecture(std::string_view name);

// llama.cpp's converter reorders the channels of each head for some architectures, from transformers' halves (NEOX)
// to adjacent pairs (NORM): channel j of HF's head of size D is channel 2j, and j + D/2 is 2j + 1. These name the
// same rotation in either layout; facts of other architectures are returned unchanged.
bool architecture_permutes_heads(std::string_view name);
ModelFacts with_transformers_layout(ModelFacts facts);
ModelFacts with_llama_cpp_layout(ModelFacts facts);

}  // namespace kvpack
