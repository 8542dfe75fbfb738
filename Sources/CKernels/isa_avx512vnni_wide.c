// The kernels for AVX-512 with VNNI where an int32 multiplication is one operation.
#define TK_WIDE
#include "isa_avx512vnni.c"
