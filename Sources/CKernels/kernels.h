// All kernels of one instruction set: an isa_*.c defines the vector types and TK_TABLE, then includes this.
// clang-format off: the order matters.
#include "rows.h"
#include "products.h"
#include "attention.h"

const tk_table TK_TABLE = {
    .matmul = matmul,
    .matmul_gate_up = matmul_gate_up,
    .quantise = quantise,
    .prepare = prepare,
    .exponential = exponential,
    .silu_multiply = silu_multiply,
    .rmsnorm = rmsnorm,
    .softmax = softmax,
    .add = add,
    .scale = scale,
    .combine = combine,
    .all_finite = all_finite,
    .f32_to_f16 = f32_to_f16,
    .f16_to_f32 = f16_to_f32,
    .route = route,
    .rotary_apply = rotary_apply,
    .kv_store = kv_store,
    .attention = attention,
    .attention_span = attention_span,
    .attention_merge = attention_merge,
};
