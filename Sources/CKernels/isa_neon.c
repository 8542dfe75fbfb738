// The kernels for NEON with the dot product.
#include "table.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=armv8.2-a+dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include "vector_neon.h"

#define TK_TABLE tk_table_neon
#include "kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
