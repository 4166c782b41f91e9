// SPDX-License-Identifier: Apache-2.0
// What a verb writes its result to: a file that appears whole or not at all, standard output, or a device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/byte_io.h"

namespace kvpack::cli {

class OutputFile : public ByteSink {
 public:
  // Checks now, before any long work, that writing `path` ("-": standard output) can succeed; creates nothing yet.
  // Errors: invalid_argument if `path` is one of `inputs` under any name, or standard output is a terminal and the
  // content `binary`; io if the file exists and may not be overwritten, or its folder cannot be written to.
  static Result<std::unique_ptr<OutputFile>> prepare(const std::string& path, bool overwrite,
                                                     const std::vector<std::string>& inputs, bool binary = true);

  Status write(ByteSpan bytes) override;
  // To write it in parts instead; null if it is no file (standard output, a device).
  Result<PlacedSink*> parts();
  // Only now does a file appear under its name. `survives_power_cut`: AtomicFile::commit().
  Status commit(bool survives_power_cut = true);

  std::string folder() const;  // of the file; "" if it is none
  bool is_stdout() const { return path_ == "-"; }
  const std::string& path() const { return path_; }
  uint64_t bytes_written() const { return bytes_written_; }
  double write_seconds() const { return write_seconds_; }  // in write() and commit()

 private:
  OutputFile() = default;
  Status open();

  std::string path_;
  bool overwrite_ = false;
  bool is_device_ = false;          // a device or FIFO: written to as it is
  std::unique_ptr<ByteSink> sink_;  // created at the first write
  AtomicFile* atomic_ = nullptr;    // sink_, if it is a file
  uint64_t bytes_written_ = 0;
  double write_seconds_ = 0;
};

}  // namespace kvpack::cli
