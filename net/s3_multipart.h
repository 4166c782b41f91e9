// SPDX-License-Identifier: Apache-2.0
// S3 multipart upload (Amazon S3 API: CreateMultipartUpload, UploadPart, CompleteMultipartUpload), resumable: what is
// done so far is kept in a small file, and an interrupted upload goes on from there.
#pragma once

#include <string>

#include "net/push.h"

namespace kvpack {

// Uploads `file` to `location`. `archive_id` ties the kept state to the content.
Result<PushReport> push_in_parts(ByteSource& file, const std::string& archive_id, HttpClient& client,
                                 const S3Location& location, const PushOptions& options);

}  // namespace kvpack
