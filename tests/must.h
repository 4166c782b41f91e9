// SPDX-License-Identifier: Apache-2.0
// What a test takes for granted: a Result that must hold a value, an error that must be of a kind and say something.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <utility>

#include "formats/result.h"

namespace kvpack::test {

template <typename T>
T must(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().message));
  return std::move(result).value();
}

inline void must(const Status& status) { REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().message)); }

// Fails the test unless `result` is an error of `kind` whose message contains `text`.
template <typename T>
void check_error(const Result<T>& result, ErrorKind kind, std::string_view text = "") {
  if (result.ok()) {
    FAIL_CHECK("no error; expected " << error_kind_name(kind) << " about '" << text << "'");
    return;
  }
  CAPTURE(result.error().message);
  CHECK(error_kind_name(result.error().kind) == error_kind_name(kind));
  CHECK_FALSE(result.error().message.empty());
  CHECK(result.error().message.find(text) != std::string::npos);
}

}  // namespace kvpack::test
