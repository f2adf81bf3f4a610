# SPDX-License-Identifier: Apache-2.0
#
# Which kernel variants fit the target, with which flags each is compiled, and the list of them, weakest first, that
# kernels/cpu/cpu_device.c includes.  Adding an ISA is a directory below kernels/cpu and one line here.

include(CheckCSourceCompiles)

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
if(processor MATCHES "^(x86_64|amd64)$")
  set(qdqbert_arch x86)
elseif(processor MATCHES "^(aarch64|arm64)$")
  set(qdqbert_arch arm64)
else()
  set(qdqbert_arch none)
endif()

# name -> flags; the order is the order of strength
set(qdqbert_variants_x86 avx2 avx_vnni avx512 avx512_vnni avx512_bf16)
set(qdqbert_variants_arm64 neon neon_dotprod neon_i8mm)
set(qdqbert_variants_none "")
set(qdqbert_flags_avx2 -mavx2 -mfma)
set(qdqbert_flags_avx_vnni ${qdqbert_flags_avx2}) # as in avx512_vnni
set(qdqbert_flags_avx512 -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(qdqbert_flags_avx512_vnni ${qdqbert_flags_avx512}) # the one instruction more is written in assembly
set(qdqbert_flags_avx512_bf16 ${qdqbert_flags_avx512}) # as in avx512_vnni
set(qdqbert_flags_neon "")
set(qdqbert_flags_neon_dotprod -march=armv8.2-a+dotprod)
set(qdqbert_flags_neon_i8mm -march=armv8.2-a+i8mm)
# name -> an instruction of its assembly that older compilers and assemblers do not know
set(qdqbert_instruction_avx_vnni "%{vex%} vpdpbusd %%ymm0, %%ymm1, %%ymm2")
set(qdqbert_instruction_neon_dotprod "sdot v0.4s, v1.16b, v2.4b[0]")
set(qdqbert_instruction_neon_i8mm "smmla v0.4s, v1.16b, v2.16b")

# Whether this compiler can make the variant.  One that cannot makes the others, and says so.
function(qdqbert_can_compile_variant name result)
  set(${result} TRUE PARENT_SCOPE)
  if(NOT DEFINED qdqbert_instruction_${name})
    return()
  endif()
  list(JOIN qdqbert_flags_${name} " " CMAKE_REQUIRED_FLAGS)
  check_c_source_compiles("int main(void) { __asm__ volatile(\"${qdqbert_instruction_${name}}\" ::: \"memory\"); return 0; }"
                          qdqbert_compiles_${name})
  if(NOT qdqbert_compiles_${name})
    message(WARNING "The kernel variant ${name} is left out: this compiler or its assembler does not know its instructions.")
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

# Sources of one variant: its own directory, and for vector variants the shared loops of simd/ compiled against its vec.h,
# but for those of which it has a file of the same name.
function(qdqbert_add_cpu_variant library name)
  file(GLOB own CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/${name}/*.c")
  set(shared "")
  if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/${name}/vec.h")
    file(GLOB shared CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/simd/*.c")
    foreach(source IN LISTS own)
      get_filename_component(stem "${source}" NAME)
      list(REMOVE_ITEM shared "${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/simd/${stem}")
    endforeach()
  endif()
  set(objects qdqbert_variant_${name})
  add_library(${objects} OBJECT ${own} ${shared})
  target_include_directories(${objects} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/${name}")
  target_compile_definitions(${objects} PRIVATE QB_VARIANT=${name})
  target_compile_options(${objects} PRIVATE ${qdqbert_flags_${name}})
  target_link_libraries(${objects} PUBLIC qdqbert_options)
  qdqbert_set_warnings(${objects})
  target_link_libraries(${library} PUBLIC ${objects})
  set_property(GLOBAL APPEND PROPERTY qdqbert_variant_list ${name})
endfunction()

function(qdqbert_find_blas)
  if(QDQBERT_SYSTEM_BLAS)
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(CBLAS REQUIRED IMPORTED_TARGET openblas)
    add_library(qdqbert_blas ALIAS PkgConfig::CBLAS)
    return()
  endif()
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import scipy_openblas32 as b; print(b.get_include_dir(), b.get_lib_dir(), sep=';')"
    OUTPUT_VARIABLE where OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "The Python package scipy-openblas32 was not found. Install it, or take the system's OpenBLAS with "
                        "-DQDQBERT_SYSTEM_BLAS=ON, or leave the openblas variant out with -DQDQBERT_BLAS=OFF.")
  endif()
  list(GET where 0 include)
  list(GET where 1 library_dir)
  file(GLOB library "${library_dir}/libscipy_openblas.so" "${library_dir}/libscipy_openblas.dylib")
  add_library(qdqbert_blas SHARED IMPORTED GLOBAL)
  set_target_properties(qdqbert_blas PROPERTIES IMPORTED_LOCATION "${library}"
                        INTERFACE_INCLUDE_DIRECTORIES "${include}"
                        INTERFACE_COMPILE_DEFINITIONS "BLAS_SYMBOL_PREFIX=scipy_")
endfunction()

# Copy the BLAS library into the wheel and let the extension find it there.
function(qdqbert_vendor_blas target)
  if(NOT QDQBERT_BLAS OR QDQBERT_SYSTEM_BLAS)
    return()
  endif()
  get_target_property(library qdqbert_blas IMPORTED_LOCATION)
  install(FILES "${library}" DESTINATION qdqbert/lib)
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
endfunction()

function(qdqbert_add_cpu_variants library)
  qdqbert_add_cpu_variant(${library} ref)
  if(QDQBERT_BLAS)
    qdqbert_find_blas()
    qdqbert_add_cpu_variant(${library} openblas)
    target_link_libraries(qdqbert_variant_openblas PUBLIC qdqbert_blas)
  endif()
  foreach(name IN LISTS qdqbert_variants_${qdqbert_arch})
    qdqbert_can_compile_variant(${name} can_compile)
    if(can_compile)
      qdqbert_add_cpu_variant(${library} ${name})
    endif()
  endforeach()
  get_property(names GLOBAL PROPERTY qdqbert_variant_list)
  set(text "/* Written by cmake/cpu_variant.cmake: the variants of this build, weakest first. */\n")
  foreach(name IN LISTS names)
    string(APPEND text "QB_CPU_VARIANT(${name})\n")
  endforeach()
  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/cpu_variants.inc" CONTENT "${text}" @ONLY)
  target_include_directories(qdqbert_objects PRIVATE "${CMAKE_CURRENT_BINARY_DIR}/generated")
endfunction()
