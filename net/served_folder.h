// SPDX-License-Identifier: Apache-2.0
// The files under a folder as a web server may show them: regular files and folders, nothing hidden (a leading dot), no
// symbolic link at any depth, so that no path leads out. Entity tags come from the content.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "formats/bytes.h"
#include "formats/file_descriptor.h"

namespace kvpack {

struct ServedFile {
  FileDescriptor fd;
  uint64_t bytes = 0;
  bool is_folder = false;
  std::string etag;  // strong, of a file

  // Fills `out` from `offset`; truncated if the file has become shorter.
  Status read(uint64_t offset, MutableByteSpan out) const;
};

struct ServedEntry {
  std::string name;
  uint64_t bytes = 0;
  bool is_folder = false;
};

class ServedFolder {
 public:
  // Errors: io if `path` is no folder.
  static Result<ServedFolder> open(const std::string& path);

  // `path` is decoded, with or without a leading '/'. Errors: invalid_argument if there is nothing to be served under
  // that name, whatever the reason; io if it cannot be read.
  Result<ServedFile> find(std::string_view path);
  // What is in a folder, by name.
  Result<std::vector<ServedEntry>> list(const ServedFile& folder) const;
  // Reads every file once, so that its entity tag is known before it is asked for; `stop` is looked at between files.
  void hash_all(const std::atomic<bool>& stop);

 private:
  // Changes with every change of a file: device, inode, bytes, modification and status change time.
  using FileFacts = std::tuple<uint64_t, uint64_t, uint64_t, int64_t, int64_t>;
  struct EtagCache {
    std::mutex mutex;
    std::map<FileFacts, std::string> etags;
  };
  Result<std::string> etag_of(const ServedFile& file, const FileFacts& facts);
  void hash_folder(const std::string& path, const std::atomic<bool>& stop);

  FileDescriptor root_;
  std::unique_ptr<EtagCache> cache_ = std::make_unique<EtagCache>();
};

}  // namespace kvpack
