// SPDX-License-Identifier: Apache-2.0
// Answers for a ScriptedServer, right ones made wrong. The file is random_text(total).
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "range_reads.h"
#include "scripted_server.h"

namespace kvpack {

using Reply = std::function<void(const ScriptedRequest&, ScriptedServer::Connection&)>;

inline Reply fixed_answer(std::string text) {
  return [text](const ScriptedRequest&, ScriptedServer::Connection& connection) { connection.send(text); };
}

// With its head changed.
inline Reply edited_answer(uint64_t total, std::function<void(std::string& head)> edit) {
  return [total, edit](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    RightAnswer right = right_answer(request, total);
    edit(right.head);
    connection.send(right.head + random_text(total).substr(right.first, right.bytes));
  };
}

// A right head, then a body that drips: `piece` bytes every 50 ms.
inline Reply dripping_answer(uint64_t total, size_t piece) {
  return [total, piece](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    connection.send(right_answer(request, total).head);
    while (connection.send(std::string(piece, 'x')) && connection.wait(std::chrono::milliseconds(50))) continue;
  };
}

// The connection ends after so many bytes of the body.
inline Reply cut_answer(uint64_t total, size_t bytes) {
  return [total, bytes](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    const RightAnswer right = right_answer(request, total);
    connection.send(right.head + random_text(total).substr(right.first, std::min<uint64_t>(bytes, right.bytes)));
    connection.close();
  };
}

inline void replace_once(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  text.replace(at, from.size(), to);
}

}  // namespace kvpack
