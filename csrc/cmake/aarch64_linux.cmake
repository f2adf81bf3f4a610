# SPDX-License-Identifier: Apache-2.0
#
# Toolchain file for 64-bit Arm on another machine: Debian's cross compiler, and qemu-user to run the tests (csrc/README.md).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
find_program(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++) # of one test; not this machine's, which CMake would look for
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
