// SPDX-License-Identifier: Apache-2.0
// The program: nothing but what must surround everything else. See program.h.
#include <cstdio>
#include <exception>
#include <new>

#include "cli/console.h"
#include "cli/exit_code.h"
#include "cli/program.h"
#include "formats/byte_io.h"

int main(int argc, char** argv) {
  using namespace kvpack;
  remove_temporary_files_on_signal();
  try {
    return cli::run_program(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("kvpack: error: not enough memory\n", stderr);  // allocates nothing
    return cli::kExitLimit;
  } catch (const std::exception& unexpected) {
    cli::Console().error({ErrorKind::kInvalidArgument, std::string("unexpected: ") + unexpected.what()});
    return cli::kExitOther;
  } catch (...) {
    std::fputs("kvpack: error: unexpected exception\n", stderr);
    return cli::kExitOther;
  }
}
