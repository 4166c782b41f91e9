// SPDX-License-Identifier: Apache-2.0
// Texts with numbers hidden in them, and questions that ask for the numbers: what a compressed cache forgets first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "net/engine/llama_engine.h"

namespace kvpack::engine {

struct HiddenNumber {
  std::vector<int32_t> question;  // tokens up to where the number begins
  std::vector<int32_t> answer;
};

struct NumbersText {
  std::vector<int32_t> prefix;
  std::vector<HiddenNumber> numbers;
};

// Exactly `prefix_tokens` tokens of a chat's first message, in which eight numbers are spread among made-up sentences;
// another text for every seed. For models with ChatML templates (SmolLM2-Instruct).
Result<NumbersText> make_numbers_text(const LlamaEngine& engine, uint32_t prefix_tokens, uint32_t seed);

}  // namespace kvpack::engine
