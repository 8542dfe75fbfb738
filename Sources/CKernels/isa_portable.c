// The specification: plain C for any machine. fmaf and sqrtf are exact by the standard; nothing else comes from libm.
#include "table.h"

#include "vector_portable.h"

#define TK_TABLE tk_table_portable
#include "kernels.h"
