// SPDX-License-Identifier: Apache-2.0
// S3 multipart upload (Amazon S3 API: CreateMultipartUpload, UploadPart, CompleteMultipartUpload), resumable: what is
// done so far is kept in a small file, and an interrupted upload goes on from there.
#pragma once

#include <string>
#include <string_view>

#include "net/push.h"

namespace kvpack {

// Uploads `file` to `location`. `archive_id` ties the kept state to the content.
Result<PushReport> push_in_parts(ByteSource& file, const std::string& archive_id, HttpClient& client,
                                 const S3Location& location, const PushOptions& options);

// The text of the first <name> element, its entities decoded; empty if there is none. Enough for S3's flat answers.
std::string xml_text(std::string_view xml, std::string_view name);
// "403 Forbidden: SignatureDoesNotMatch: The request signature ..." of an answer that says no.
std::string s3_error_text(const HttpResponse& response);

// exchange() with retries for lost connections and statuses that say "later"; anything else is returned as it is.
Result<HttpResponse> exchange_with_retries(HttpClient& client, const HttpRequest& request, const RetryOptions& options);

}  // namespace kvpack
