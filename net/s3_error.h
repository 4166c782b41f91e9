// SPDX-License-Identifier: Apache-2.0
// What a server that says no gives as its reason: S3's XML, where it is that.
#pragma once

#include <string>
#include <string_view>

#include "net/http_message.h"

namespace kvpack {

// The text of the first <name> element, its entities decoded; empty if there is none. Enough for S3's flat answers.
std::string xml_text(std::string_view xml, std::string_view name);
// "the server says 403 Forbidden: SignatureDoesNotMatch: The request signature ..."
std::string s3_error_text(const HttpHead& head, std::string_view body);

}  // namespace kvpack
