// SPDX-License-Identifier: Apache-2.0
// What file readers and writers of this folder do with file descriptors. Positions are bytes from the file's start.
#pragma once

#include <string>

#include "formats/bytes.h"
#include "formats/file_descriptor.h"
#include "formats/result.h"

namespace kvpack {

struct OpenFile {
  FileDescriptor fd;
  uint64_t size = 0;
};

// Read-only. Folders, devices and FIFOs are refused (io, with what was found).
Result<OpenFile> open_regular_file(const std::string& path);

// A new file, to read and write, that has no name and is gone when it is closed.
Result<FileDescriptor> open_unlinked_file(const std::string& folder);
std::string temporary_folder();  // $TMPDIR, else /tmp

// Reads from the descriptor's position until `out` is full or the end; the number of bytes read.
Result<uint64_t> read_up_to(int fd, const std::string& name, MutableByteSpan out);
// Exactly out.size() bytes; `truncated` if the file ends before.
Status read_at(int fd, const std::string& name, uint64_t offset, MutableByteSpan out);
Status write_at(int fd, const std::string& name, uint64_t offset, ByteSpan bytes);

}  // namespace kvpack
