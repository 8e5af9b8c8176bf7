#pragma once

#include "ops/element_function.h"

// GCC compiles the loops for several widths of vector and picks one when the library is loaded. It tells the levels of
// the architecture apart from version 12 on; the name of a processor would leave out those of other makers.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && defined(__gnu_linux__)
#define HIGHGRAD_VECTOR_WIDTHS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HIGHGRAD_VECTOR_WIDTHS
#endif

#define HIGHGRAD_INLINE_LAMBDA __attribute__((always_inline))
