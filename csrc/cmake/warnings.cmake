# SPDX-License-Identifier: Apache-2.0
function(qdqbert_set_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef
                         -Wdouble-promotion -Wpointer-arith -Wwrite-strings)
  if(QDQBERT_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()
