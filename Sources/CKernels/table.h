// The functions of one instruction set. Each isa_*.c fills one table; dispatch.c picks.
#ifndef TK_TABLE_H
#define TK_TABLE_H

#include "layout.h"

typedef struct tk_table {
    void (*matmul)(
        tk_format, const void *, size_t, size_t, size_t, size_t, const void *, size_t, size_t, size_t, float *, size_t);
    void (*matmul_gate_up)(
        tk_format, const void *, const void *, size_t, size_t, size_t, size_t, const void *, size_t, size_t, float *,
        size_t);
    void (*quantise)(tk_activation, const float *, size_t, void *);
    void (*prepare)(tk_activation, const void *, size_t, size_t, size_t, void *);
    void (*exponential)(const float *, size_t, float *);
    void (*silu_multiply)(const float *, const float *, size_t, float *);
    void (*rmsnorm)(const float *, const float *, size_t, float, float *);
    void (*softmax)(float *, size_t);
    void (*add)(float *, const float *, size_t);
    void (*scale)(const float *, float, size_t, float *);
    void (*combine)(float *, const float *const *, const float *, size_t, size_t);
    bool (*all_finite)(const void *, size_t);
    void (*f32_to_f16)(const float *, size_t, uint16_t *);
    void (*f16_to_f32)(const uint16_t *, size_t, float *);
    void (*route)(const float *, size_t, size_t, float *, int32_t *, float *);
    void (*rotary_apply)(float *, size_t, size_t, const float *, const float *);
    void (*kv_store)(const tk_kv_view *, size_t, const float *, const float *);
    void (*attention)(
        const tk_kv_view *, const float *, size_t, size_t, size_t, size_t, size_t, size_t, float *, float *, size_t);
    void (*attention_span)(const tk_kv_view *, const float *, size_t, size_t, size_t, size_t, float *, float *);
    void (*attention_merge)(float *, size_t, size_t, size_t, float *);
} tk_table;

extern const tk_table tk_table_portable;
#if defined(__x86_64__)
extern const tk_table tk_table_avx2;
extern const tk_table tk_table_avx512;
extern const tk_table tk_table_avx512vnni;
extern const tk_table tk_table_avx512vnni_wide;
#elif defined(__aarch64__)
extern const tk_table tk_table_neon;
#endif

#endif
