// The kernels for AVX-512 with VNNI.
#include "table.h"

#if defined(__x86_64__)

#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#endif

#define TK_VNNI
#include "vector_avx512.h"

#ifdef TK_WIDE
#define TK_TABLE tk_table_avx512vnni_wide
#else
#define TK_TABLE tk_table_avx512vnni
#endif
#include "kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
