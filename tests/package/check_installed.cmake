# SPDX-License-Identifier: Apache-2.0
# cmake -DBUILD=DIR -DSAMPLES=DIR -DREADME=FILE -DGENERATOR=NAME -P check_installed.cmake
# Installs BUILD; builds the sample programs against what is installed and nothing else, and runs their tests; compiles
# every installed header alone; looks for the manual page and the completions, and for drift in what the README says.
cmake_minimum_required(VERSION 3.25)
set(prefix ${BUILD}/package/installed)
set(consumer ${BUILD}/package/consumer)
file(REMOVE_RECURSE ${BUILD}/package)

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed (${status}): ${ARGN}\n${out}")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})

run(${CMAKE_COMMAND} -S ${SAMPLES} -B ${consumer} -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${prefix}
    -DCMAKE_C_FLAGS=${C_FLAGS} -DCMAKE_CXX_FLAGS=${CXX_FLAGS})
run(${CMAKE_COMMAND} --build ${consumer})
run(${CMAKE_CTEST_COMMAND} --test-dir ${consumer} --output-on-failure --no-tests=error)

# Headers: each for itself, so that none needs one that is not installed.
file(GLOB_RECURSE headers RELATIVE ${prefix}/include/kvpack ${prefix}/include/kvpack/*.h)
if(NOT headers)
  message(FATAL_ERROR "no headers under ${prefix}/include/kvpack")
endif()
set(sources "")
foreach(header ${headers})
  string(MAKE_C_IDENTIFIER ${header} name)
  file(WRITE ${BUILD}/package/headers/${name}.cc "#include \"${header}\"\n")
  list(APPEND sources ${name}.cc)
endforeach()
list(JOIN sources " " sources)
file(WRITE ${BUILD}/package/headers/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(headers CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(kvpack REQUIRED COMPONENTS net)
add_library(headers OBJECT ${sources})
target_link_libraries(headers PRIVATE kvpack::codec kvpack::formats kvpack::net)
")
run(${CMAKE_COMMAND} -S ${BUILD}/package/headers -B ${BUILD}/package/headers/build -G ${GENERATOR}
    -DCMAKE_PREFIX_PATH=${prefix})
run(${CMAKE_COMMAND} --build ${BUILD}/package/headers/build)

# The program and its pages.
run(${prefix}/bin/kvpack version)
foreach(page share/man/man1/kvpack.1 share/bash-completion/completions/kvpack share/zsh/site-functions/_kvpack
             share/fish/vendor_completions.d/kvpack.fish)
  file(READ ${prefix}/${page} text)
  if(NOT text MATCHES "encode" OR NOT text MATCHES "quality")
    message(FATAL_ERROR "${page} does not describe `kvpack encode --quality`")
  endif()
endforeach()
run(bash -n ${prefix}/share/bash-completion/completions/kvpack)

# The README's exit codes are the program's.
file(STRINGS ${prefix}/share/man/man1/kvpack.1 page)
list(FIND page ".SH EXIT STATUS" begin)
list(SUBLIST page ${begin} -1 page)
set(codes "")
foreach(line ${page})
  if(line MATCHES "^.fB([0-9, ]+).fR$")
    list(APPEND codes ${CMAKE_MATCH_1})
  endif()
endforeach()
list(LENGTH codes count)
if(count LESS 10)
  message(FATAL_ERROR "kvpack.1 names ${count} exit codes: ${codes}")
endif()
file(READ ${README} readme)
foreach(code ${codes})
  string(FIND "${readme}" "\n| ${code} |" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "${README} does not explain exit code ${code}")
  endif()
endforeach()
