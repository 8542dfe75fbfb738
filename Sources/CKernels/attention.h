// Attention over pages, written once over the vector types of an instruction set; order and layout in CKernels.h.

TK_INLINE uint16_t *page_keys(const tk_kv_view *kv, size_t page, size_t head) {
    uint8_t *base = (uint8_t *)kv->base + (size_t)kv->pages[page] * kv->page_stride;
    return (uint16_t *)base + head * kv->head_dim * 2 * TK_PAGE_TOKENS;
}

TK_INLINE uint16_t *page_values(const tk_kv_view *kv, size_t page, size_t head) {
    return page_keys(kv, page, head) + kv->head_dim * TK_PAGE_TOKENS;
}

static void kv_store(const tk_kv_view *kv, size_t position, const float *keys, const float *values) {
    const size_t page = position / TK_PAGE_TOKENS, slot = position % TK_PAGE_TOKENS, head_dim = kv->head_dim;
    for (size_t h = 0; h < kv->kv_heads; ++h) {
        uint16_t *k = page_keys(kv, page, h) + slot;
        for (size_t d = 0; d < head_dim; ++d) {
            k[d * TK_PAGE_TOKENS] = tk_float_to_half(keys[h * head_dim + d]);
        }
        f32_to_f16(values + h * head_dim, head_dim, page_values(kv, page, h) + slot * head_dim);
    }
}

// Scores of `G` query heads with the 32 tokens of a page; those that are not visible are written too, and ignored.
TK_INLINE void page_scores(const int G, const uint16_t *keys, const float *q, size_t head_dim, v16 factor, float *out) {
    v16 acc[4][2];
    TK_UNROLL
    for (int g = 0; g < G; ++g) {
        acc[g][0] = acc[g][1] = v16_set1(0);
    }
    for (size_t d = 0; d < head_dim; ++d) {
        const v16 front = v16_load_f16(keys + d * TK_PAGE_TOKENS);
        const v16 back = v16_load_f16(keys + d * TK_PAGE_TOKENS + 16);
        TK_UNROLL
        for (int g = 0; g < G; ++g) {
            const v16 x = v16_set1(q[(size_t)g * head_dim + d]);
            acc[g][0] = v16_fma(x, front, acc[g][0]);
            acc[g][1] = v16_fma(x, back, acc[g][1]);
        }
    }
    TK_UNROLL
    for (int g = 0; g < G; ++g) {
        v16_store(out + g * TK_SPAN_TOKENS, v16_mul(acc[g][0], factor));
        v16_store(out + g * TK_SPAN_TOKENS + 16, v16_mul(acc[g][1], factor));
    }
}

// Adds p_t * V[t] for the first `visible` tokens of a page to the values of `G` query heads.
TK_INLINE void page_weighted_values(
    const int G, const uint16_t *values, const float *p, size_t visible, size_t head_dim, float *out,
    size_t out_stride) {
    size_t d = 0;
    for (; d + 16 <= head_dim; d += 16) {
        v16 acc[4];
        TK_UNROLL
        for (int g = 0; g < G; ++g) {
            acc[g] = v16_load(out + (size_t)g * out_stride + d);
        }
        for (size_t t = 0; t < visible; ++t) {
            const v16 v = v16_load_f16(values + t * head_dim + d);
            TK_UNROLL
            for (int g = 0; g < G; ++g) {
                acc[g] = v16_fma(v16_set1(p[g * TK_SPAN_TOKENS + t]), v, acc[g]);
            }
        }
        TK_UNROLL
        for (int g = 0; g < G; ++g) {
            v16_store(out + (size_t)g * out_stride + d, acc[g]);
        }
    }
    for (; d < head_dim; ++d) {
        for (int g = 0; g < G; ++g) {
            float acc = out[(size_t)g * out_stride + d];
            for (size_t t = 0; t < visible; ++t) {
                acc = __builtin_fmaf(p[g * TK_SPAN_TOKENS + t], tk_half_to_float(values[t * head_dim + d]), acc);
            }
            out[(size_t)g * out_stride + d] = acc;
        }
    }
}

// One span for `G` query heads that share a kv head.
TK_INLINE void span_heads(
    const int G, const tk_kv_view *kv, const float *q, size_t tokens, size_t head, size_t span, float *scores,
    float *partial) {
    const size_t head_dim = kv->head_dim, record = tk_partial_floats(head_dim);
    const size_t begin = span * TK_SPAN_TOKENS;
    const size_t count = tokens - begin < TK_SPAN_TOKENS ? tokens - begin : TK_SPAN_TOKENS;
    const v16 factor = v16_set1(1.0f / __builtin_sqrtf((float)head_dim));
    for (size_t t = 0; t < count; t += TK_PAGE_TOKENS) {
        const uint16_t *keys = page_keys(kv, (begin + t) / TK_PAGE_TOKENS, head);
        page_scores(G, keys, q, head_dim, factor, scores + t);
    }
    for (int g = 0; g < G; ++g) {
        float *out = partial + (size_t)g * record;
        memset(out, 0, record * sizeof(float));
        out[0] = maximum(scores + g * TK_SPAN_TOKENS, count);
        out[1] = exponentials(scores + g * TK_SPAN_TOKENS, count, out[0]);
    }
    for (size_t t = 0; t < count; t += TK_PAGE_TOKENS) {
        const size_t visible = count - t < TK_PAGE_TOKENS ? count - t : TK_PAGE_TOKENS;
        const uint16_t *values = page_values(kv, (begin + t) / TK_PAGE_TOKENS, head);
        page_weighted_values(G, values, scores + t, visible, head_dim, partial + 16, record);
    }
}

static void span_heads_1(
    const tk_kv_view *kv, const float *q, size_t tokens, size_t head, size_t span, float *scores, float *partial) {
    span_heads(1, kv, q, tokens, head, span, scores, partial);
}

static void span_heads_2(
    const tk_kv_view *kv, const float *q, size_t tokens, size_t head, size_t span, float *scores, float *partial) {
    span_heads(2, kv, q, tokens, head, span, scores, partial);
}

static void span_heads_4(
    const tk_kv_view *kv, const float *q, size_t tokens, size_t head, size_t span, float *scores, float *partial) {
    span_heads(4, kv, q, tokens, head, span, scores, partial);
}

static void attention_span(
    const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head, size_t span, float *scratch,
    float *partial) {
    const size_t group = heads / kv->kv_heads, record = tk_partial_floats(kv->head_dim);
    for (size_t g = 0, G; g < group; g += G) {
        G = group - g >= 4 ? 4 : group - g >= 2 ? 2 : 1;
        const float *first = q + (kv_head * group + g) * kv->head_dim;
        float *scores = scratch + g * TK_SPAN_TOKENS, *out = partial + g * record;
        if (G == 4) {
            span_heads_4(kv, first, tokens, kv_head, span, scores, out);
        } else if (G == 2) {
            span_heads_2(kv, first, tokens, kv_head, span, scores, out);
        } else {
            span_heads_1(kv, first, tokens, kv_head, span, scores, out);
        }
    }
}

// Merges `next` into `total`, both one record.
static void merge_record(float *total, const float *next, size_t head_dim) {
    const float m = total[0] > next[0] ? total[0] : next[0];
    float both[2] = {total[0] - m, next[0] - m};
    exponential(both, 2, both);
    const float weighted = next[1] * both[1];
    total[0] = m;
    total[1] = __builtin_fmaf(total[1], both[0], weighted);
    const v16 c = v16_set1(both[0]), other = v16_set1(both[1]);
    float *o = total + 16;
    const float *n = next + 16;
    size_t d = 0;
    for (; d + 16 <= head_dim; d += 16) {
        v16_store(o + d, v16_fma(v16_load(o + d), c, v16_mul(v16_load(n + d), other)));
    }
    for (; d < head_dim; ++d) {
        const float product = n[d] * both[1];
        o[d] = __builtin_fmaf(o[d], both[0], product);
    }
}

static void divide_record(const float *total, size_t head_dim, float *out) {
    const v16 divisor = v16_set1(total[1]);
    size_t d = 0;
    for (; d + 16 <= head_dim; d += 16) {
        v16_store(out + d, v16_div(v16_load(total + 16 + d), divisor));
    }
    for (; d < head_dim; ++d) {
        out[d] = total[16 + d] / total[1];
    }
}

static void attention_merge(float *partials, size_t spans, size_t group, size_t head_dim, float *out) {
    const size_t record = tk_partial_floats(head_dim);
    for (size_t g = 0; g < group; ++g) {
        float *total = partials + g * record;
        for (size_t s = 1; s < spans; ++s) {
            merge_record(total, total + s * group * record, head_dim);
        }
        divide_record(total, head_dim, out + g * head_dim);
    }
}

static void attention(
    const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head_begin, size_t kv_head_end,
    float *scratch, float *out) {
    const size_t group = heads / kv->kv_heads, head_dim = kv->head_dim, record = tk_partial_floats(head_dim);
    float *total = scratch + group * TK_SPAN_TOKENS, *next = total + group * record;
    for (size_t h = kv_head_begin; h < kv_head_end; ++h) {
        attention_span(kv, q, heads, tokens, h, 0, scratch, total);
        for (size_t s = 1; s < tk_span_count(tokens); ++s) {
            attention_span(kv, q, heads, tokens, h, s, scratch, next);
            for (size_t g = 0; g < group; ++g) {
                merge_record(total + g * record, next + g * record, head_dim);
            }
        }
        for (size_t g = 0; g < group; ++g) {
            divide_record(total + g * record, head_dim, out + (h * group + g) * head_dim);
        }
    }
}
