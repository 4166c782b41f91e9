// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/hidden_numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>

namespace kvpack::engine {
namespace {

constexpr size_t kNumbers = 8;
constexpr std::array kCities = {"Paris", "London", "Tokyo",  "Berlin", "Madrid", "Rome",
                                "Cairo", "Delhi",  "Moscow", "Lima",   "Oslo",   "Athens"};
constexpr std::array kWho = {
    "The baker",     "An old sailor",     "My neighbour",         "The night guard", "A young doctor",
    "The librarian", "Our guide",         "The clockmaker",       "A farmer's wife", "The postman",
    "Her uncle",     "The stationmaster", "A travelling painter", "The miller"};
constexpr std::array kDid = {"walked slowly past",    "forgot all about",     "wrote a letter about",
                             "kept a close watch on", "told a long story of", "quietly repaired",
                             "could never explain",   "bought a picture of",  "dreamed again of",
                             "argued over",           "swept the snow from",  "carefully measured"};
constexpr std::array kWhat = {"the broken windmill",    "a crate of green apples", "the harbour wall",
                              "the wooden stairs",      "a bell with no voice",    "the garden behind the church",
                              "an empty ferry",         "the iron gate",           "three grey horses",
                              "the map in the hallway", "a basket of wet rope",    "the tall chimney"};
constexpr std::array kWhen = {"before the rain came",        "on the first day of autumn", "while the others slept",
                              "as if nothing had happened",  "and nobody asked why",       "until the lamps were lit",
                              "because the road was closed", "with a lantern in one hand", "for the rest of the winter",
                              "though it was nearly noon"};

class Story {
 public:
  explicit Story(uint32_t seed) : random_(seed) {
    std::vector<size_t> order(kCities.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    for (size_t i = 0; i < kNumbers; ++i) {
      cities_.emplace_back(kCities[order[i]]);
      numbers_.push_back(std::to_string(10000 + below(90000)));
    }
    for (size_t i = 0; i < 400; ++i) {
      sentences_.push_back(fmt::format(" {} {} {} {}.", pick(kWho), pick(kDid), pick(kWhat), pick(kWhen)));
    }
  }
  const std::string& city(size_t i) const { return cities_[i]; }
  const std::string& number(size_t i) const { return numbers_[i]; }
  // `sentences` sentences with the numbers evenly among them.
  std::string text(size_t sentences) const {
    std::string text = "<|im_start|>user\nRead the text and remember the special numbers in it.\n\n";
    size_t told = 0;
    for (size_t i = 0; i < sentences; ++i) {
      text += sentences_[i];
      if ((i + 1) * (kNumbers + 1) >= (told + 1) * sentences && told < kNumbers) {
        text += fmt::format(" The special magic number for {} is {}.", cities_[told], numbers_[told]);
        ++told;
      }
    }
    return text;
  }
  std::string rest(size_t sentences) const {
    std::string text;
    for (size_t i = sentences; i < sentences_.size(); ++i) text += sentences_[i];
    return text;
  }
  size_t sentences() const { return sentences_.size(); }

 private:
  // std::uniform_int_distribution differs between libraries.
  size_t below(size_t limit) { return random_() % limit; }
  template <size_t N>
  const char* pick(const std::array<const char*, N>& words) {
    return words[below(N)];
  }

  std::mt19937 random_;
  std::vector<std::string> cities_;
  std::vector<std::string> numbers_;
  std::vector<std::string> sentences_;
};

// The longest text of at most `limit` tokens, filled up to them.
Result<std::vector<int32_t>> fitted(const LlamaEngine& engine, const Story& story, uint32_t limit) {
  size_t low = 0;
  size_t high = story.sentences();
  while (low + 1 < high) {
    const size_t middle = (low + high) / 2;
    KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine.tokenize(story.text(middle), /*markup=*/true));
    (tokens.size() <= limit ? low : high) = middle;
  }
  KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, engine.tokenize(story.text(low), true));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<int32_t> rest, engine.tokenize(story.rest(low), true));
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  if (low < kNumbers || tokens.size() < limit) {
    return invalid_argument(fmt::format("a text of {} tokens cannot be made of the sentences there are", limit));
  }
  tokens.resize(limit);
  return tokens;
}

}  // namespace

Result<NumbersText> make_numbers_text(const LlamaEngine& engine, uint32_t prefix_tokens, uint32_t seed) {
  const Story story(seed);
  NumbersText made;
  KVPACK_ASSIGN_OR_RETURN(made.prefix, fitted(engine, story, prefix_tokens));
  for (size_t i = 0; i < kNumbers; ++i) {
    HiddenNumber hidden;
    const std::string question = fmt::format(
        "\n\nWhat is the special magic number for {0}?<|im_end|>\n<|im_start|>assistant\nThe special magic number for "
        "{0} is",
        story.city(i));
    KVPACK_ASSIGN_OR_RETURN(hidden.question, engine.tokenize(question, true));
    KVPACK_ASSIGN_OR_RETURN(hidden.answer, engine.tokenize(" " + story.number(i), true));
    made.numbers.push_back(std::move(hidden));
  }
  return made;
}

}  // namespace kvpack::engine
