// SPDX-License-Identifier: Apache-2.0
// Result<T>: a value or one Error. Every fallible function of kvpack returns it; no exception crosses a folder.
// The message names the file or chunk, the offset, what was expected and what was found.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kvpack {

enum class ErrorKind {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotKvpack,        // not a .kvp archive at all
  kUnsupported,      // well-formed, but this build cannot read or write it
  kCorrupt,          // damaged or contradictory bytes
  kTruncated,        // bytes end early
  kLimit,            // larger than the documented limits allow
  kIo,               // the local file system failed
  kNetwork,          // the network failed
};

// The kind's name as printed in messages and JSON, e.g. "corrupt".
std::string_view error_kind_name(ErrorKind kind);

struct Error {
  ErrorKind kind = ErrorKind::kCorrupt;
  std::string message;

  // The same error with `context` ("ctx.kvp: chunk 3") put before its message.
  Error within(std::string_view context) const { return Error{kind, std::string(context) + ": " + message}; }
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    assert(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    assert(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    assert(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const {
    assert(!ok());
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    assert(!ok());
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

inline Error invalid_argument(std::string message) { return {ErrorKind::kInvalidArgument, std::move(message)}; }
inline Error not_kvpack(std::string message) { return {ErrorKind::kNotKvpack, std::move(message)}; }
inline Error unsupported(std::string message) { return {ErrorKind::kUnsupported, std::move(message)}; }
inline Error corrupt(std::string message) { return {ErrorKind::kCorrupt, std::move(message)}; }
inline Error truncated(std::string message) { return {ErrorKind::kTruncated, std::move(message)}; }
inline Error limit_exceeded(std::string message) { return {ErrorKind::kLimit, std::move(message)}; }
inline Error io_error(std::string message) { return {ErrorKind::kIo, std::move(message)}; }

}  // namespace kvpack

#define KVPACK_CONCAT_INNER(a, b) a##b
#define KVPACK_CONCAT(a, b) KVPACK_CONCAT_INNER(a, b)
// Returns the error of `expr` (a Status or Result) from the enclosing function.
#define KVPACK_RETURN_IF_ERROR_IMPL(temporary, expr) \
  do {                                               \
    auto temporary = (expr);                         \
    if (!temporary.ok()) {                           \
      return temporary.error();                      \
    }                                                \
  } while (false)
#define KVPACK_RETURN_IF_ERROR(expr) KVPACK_RETURN_IF_ERROR_IMPL(KVPACK_CONCAT(kvpack_status_, __LINE__), expr)

#define KVPACK_ASSIGN_OR_RETURN_IMPL(temporary, target, expr) \
  auto temporary = (expr);                                    \
  if (!temporary.ok()) {                                      \
    return temporary.error();                                 \
  }                                                           \
  target = std::move(temporary).value()

// `KVPACK_ASSIGN_OR_RETURN(auto x, f());` binds the value or returns the error.
#define KVPACK_ASSIGN_OR_RETURN(target, expr) \
  KVPACK_ASSIGN_OR_RETURN_IMPL(KVPACK_CONCAT(kvpack_result_, __LINE__), target, expr)
