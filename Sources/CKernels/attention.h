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
        for (size_t d = 0; d < head_dim; d += 16) {
            const size_t some = head_dim - d < 16 ? head_dim - d : 16;
            uint16_t halves[16];
            f32_to_f16(keys + h * head_dim + d, some, halves);
            for (size_t i = 0; i < some; ++i) {
                k[(d + i) * TK_PAGE_TOKENS] = halves[i];
            }
        }
        f32_to_f16(values + h * head_dim, head_dim, page_values(kv, page, h) + slot * head_dim);
    }
}

// Queries of one kv head that a tile holds at most: with two vectors of tokens or dimensions each, and what they are
// multiplied with, they fill 15 of AVX2's 16 registers, and are chains enough to hide a multiply-add's latency.
enum { TK_TILE_QUERIES = 6 };

// Tiles ask memory for the same place of the page that comes next: the hardware's prefetcher stops at every 4 KiB, and a
// page of one head is 8 of keys and 8 of values at a head_dim of 128.
TK_INLINE void fetch_next(const uint16_t *place) { __builtin_prefetch(place, 0, 2); }

// Scores of `G` queries with the 32 tokens of a page; those that are not visible are written too, and ignored.
TK_INLINE void score_tile(
    const int G, const uint16_t *keys, const uint16_t *next, const float *q, size_t head_dim, float *scores) {
    const vf factor = vf_set1(1.0f / __builtin_sqrtf((float)head_dim));
    for (size_t t = 0; t < TK_PAGE_TOKENS; t += 2 * TK_LANES) {
        vf acc[TK_TILE_QUERIES][2];
        TK_UNROLL
        for (int g = 0; g < G; ++g) {
            acc[g][0] = acc[g][1] = vf_set1(0);
        }
        for (size_t d = 0; d < head_dim; ++d) {
            const uint16_t *place = keys + d * TK_PAGE_TOKENS + t;
            const vf front = vf_load_f16(place), back = vf_load_f16(place + TK_LANES);
            fetch_next(next + (place - keys));
            TK_UNROLL
            for (int g = 0; g < G; ++g) {
                const float *x = q + (size_t)g * head_dim + d;
                acc[g][0] = vf_fma_spread(front, x, acc[g][0]);
                acc[g][1] = vf_fma_spread(back, x, acc[g][1]);
            }
        }
        TK_UNROLL
        for (int g = 0; g < G; ++g) {
            vf_store(scores + g * TK_SPAN_TOKENS + t, vf_mul(acc[g][0], factor));
            vf_store(scores + g * TK_SPAN_TOKENS + t + TK_LANES, vf_mul(acc[g][1], factor));
        }
    }
}

// Adds p_t * V[t] for `W` vectors of dimensions from `d` and the first `visible` tokens of a page to the values of `G`
// queries' records.
TK_INLINE void value_columns(
    const int G, const int W, const uint16_t *values, const uint16_t *next, const float *p, size_t visible,
    size_t head_dim, size_t d, float *records) {
    const size_t record = tk_partial_floats(head_dim);
    float *out = records + 16 + d;
    vf acc[TK_TILE_QUERIES][2];
    TK_UNROLL
    for (int g = 0; g < G; ++g) {
        TK_UNROLL
        for (int w = 0; w < W; ++w) {
            acc[g][w] = vf_load(out + (size_t)g * record + w * TK_LANES);
        }
    }
    for (size_t t = 0; t < visible; ++t) {
        const uint16_t *place = values + t * head_dim + d;
        vf v[2];
        TK_UNROLL
        for (int w = 0; w < W; ++w) {
            v[w] = vf_load_f16(place + w * TK_LANES);
        }
        fetch_next(next + (place - values));
        TK_UNROLL
        for (int g = 0; g < G; ++g) {
            TK_UNROLL
            for (int w = 0; w < W; ++w) {
                acc[g][w] = vf_fma_spread(v[w], p + g * TK_SPAN_TOKENS + t, acc[g][w]);
            }
        }
    }
    TK_UNROLL
    for (int g = 0; g < G; ++g) {
        TK_UNROLL
        for (int w = 0; w < W; ++w) {
            vf_store(out + (size_t)g * record + w * TK_LANES, acc[g][w]);
        }
    }
}

// The same for all dimensions.
TK_INLINE void value_tile(
    const int G, const uint16_t *values, const uint16_t *next, const float *p, size_t visible, size_t head_dim,
    float *records) {
    size_t d = 0;
    for (; d + 2 * TK_LANES <= head_dim; d += 2 * TK_LANES) {
        value_columns(G, 2, values, next, p, visible, head_dim, d, records);
    }
    for (; d + TK_LANES <= head_dim; d += TK_LANES) {
        value_columns(G, 1, values, next, p, visible, head_dim, d, records);
    }
    for (; d < head_dim; ++d) {
        for (int g = 0; g < G; ++g) {
            float *out = records + (size_t)g * tk_partial_floats(head_dim) + 16 + d;
            for (size_t t = 0; t < visible; ++t) {
                *out = __builtin_fmaf(p[g * TK_SPAN_TOKENS + t], tk_half_to_float(values[t * head_dim + d]), *out);
            }
        }
    }
}

#define TK_QUERY_TILES(G)                                                                                            \
    static void score_tile_##G(                                                                                \
        const uint16_t *keys, const uint16_t *next, const float *q, size_t head_dim, float *scores) {          \
        score_tile(G, keys, next, q, head_dim, scores);                                                        \
    }                                                                                                          \
    static void value_tile_##G(                                                                                \
        const uint16_t *values, const uint16_t *next, const float *p, size_t visible, size_t head_dim,         \
        float *records) {                                                                                      \
        value_tile(G, values, next, p, visible, head_dim, records);                                            \
    }
TK_QUERY_TILES(1)
TK_QUERY_TILES(2)
TK_QUERY_TILES(3)
TK_QUERY_TILES(4)
TK_QUERY_TILES(5)
TK_QUERY_TILES(6)
#undef TK_QUERY_TILES

static void (*const score_tiles[])(const uint16_t *, const uint16_t *, const float *, size_t, float *) = {
    score_tile_1, score_tile_2, score_tile_3, score_tile_4, score_tile_5, score_tile_6,
};
static void (*const value_tiles[])(const uint16_t *, const uint16_t *, const float *, size_t, size_t, float *) = {
    value_tile_1, value_tile_2, value_tile_3, value_tile_4, value_tile_5, value_tile_6,
};

// How many of the `left` queries of a group the next tile takes: as few tiles as possible, of sizes as equal as possible.
TK_INLINE size_t tile_queries(size_t left) {
    const size_t tiles = (left + TK_TILE_QUERIES - 1) / TK_TILE_QUERIES;
    return (left + tiles - 1) / tiles;
}

// How many tokens of a span a row sees that attends to the first `tokens`.
TK_INLINE size_t visible_tokens(size_t tokens, size_t span) {
    const size_t begin = span * TK_SPAN_TOKENS;
    return tokens <= begin ? 0 : tokens - begin < TK_SPAN_TOKENS ? tokens - begin : TK_SPAN_TOKENS;
}

// One span of one kv head for `rows` rows that follow each other, page by page, so that a page comes from memory once.
// q: the first row's first query of the group. records: [rows][group]; a row that sees nothing of the span gets none.
static void span_rows(
    const tk_kv_view *kv, const float *q, size_t q_stride, size_t rows, size_t group, size_t tokens, size_t head,
    size_t span, float *scores, float *records) {
    const size_t head_dim = kv->head_dim, record = tk_partial_floats(head_dim), first = span * TK_SPAN_PAGES;
    const size_t most = visible_tokens(tokens + rows - 1, span), pages = (most + TK_PAGE_TOKENS - 1) / TK_PAGE_TOKENS;
    for (size_t page = 0; page < pages; ++page) {
        const uint16_t *keys = page_keys(kv, first + page, head);
        const uint16_t *next =
            page + 1 < pages ? page_keys(kv, first + page + 1, head) : page_values(kv, first, head);
        for (size_t i = 0; i < rows; ++i) {
            if (visible_tokens(tokens + i, span) <= page * TK_PAGE_TOKENS) {
                continue;
            }
            float *out = scores + i * group * TK_SPAN_TOKENS + page * TK_PAGE_TOKENS;
            for (size_t g = 0, some; g < group; g += some) {
                some = tile_queries(group - g);
                score_tiles[some - 1](keys, next, q + i * q_stride + g * head_dim, head_dim, out + g * TK_SPAN_TOKENS);
            }
        }
    }
    for (size_t i = 0; i < rows; ++i) {
        const size_t visible = visible_tokens(tokens + i, span);
        for (size_t g = i * group; visible > 0 && g < (i + 1) * group; ++g) {
            float *out = records + g * record;
            memset(out, 0, record * sizeof(float));
            out[0] = maximum(scores + g * TK_SPAN_TOKENS, visible);
            out[1] = exponentials(scores + g * TK_SPAN_TOKENS, visible, out[0], true);
        }
    }
    for (size_t page = 0; page < pages; ++page) {
        const uint16_t *values = page_values(kv, first + page, head), *next = values;
        if (page + 1 < pages) {
            next = page_values(kv, first + page + 1, head);
        } else if (most == TK_SPAN_TOKENS && tokens + rows - 1 > (span + 1) * TK_SPAN_TOKENS) {
            next = page_keys(kv, first + TK_SPAN_PAGES, head);
        }
        for (size_t i = 0; i < rows; ++i) {
            const size_t row_visible = visible_tokens(tokens + i, span), before = page * TK_PAGE_TOKENS;
            if (row_visible <= before) {
                continue;
            }
            const size_t visible = row_visible - before < TK_PAGE_TOKENS ? row_visible - before : TK_PAGE_TOKENS;
            for (size_t g = 0, some; g < group; g += some) {
                some = tile_queries(group - g);
                const size_t query = i * group + g;
                value_tiles[some - 1](
                    values, next, scores + query * TK_SPAN_TOKENS + before, visible, head_dim, records + query * record);
            }
        }
    }
}

static void attention_span(
    const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head, size_t span, float *scratch,
    float *partial) {
    const size_t group = heads / kv->kv_heads;
    span_rows(kv, q + kv_head * group * kv->head_dim, 0, 1, group, tokens, kv_head, span, scratch, partial);
}

// Merges `next` into `total`, both one record.
static void merge_record(float *total, const float *next, size_t head_dim) {
    const float m = total[0] > next[0] ? total[0] : next[0];
    float both[2] = {total[0] - m, next[0] - m};
    v16_store_some(both, 2, v16_weight(v16_load_some(both, 2, 0)));
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
    const tk_kv_view *kv, const float *q, size_t q_stride, size_t rows, size_t heads, size_t tokens,
    size_t kv_head_begin, size_t kv_head_end, float *scratch, float *out, size_t out_stride) {
    const size_t group = heads / kv->kv_heads, head_dim = kv->head_dim, record = tk_partial_floats(head_dim);
    float *total = scratch + rows * group * TK_SPAN_TOKENS, *next = total + rows * group * record;
    for (size_t h = kv_head_begin; h < kv_head_end; ++h) {
        const float *queries = q + h * group * head_dim;
        span_rows(kv, queries, q_stride, rows, group, tokens, h, 0, scratch, total);
        for (size_t s = 1; s < tk_span_count(tokens + rows - 1); ++s) {
            span_rows(kv, queries, q_stride, rows, group, tokens, h, s, scratch, next);
            for (size_t i = 0; i < rows; ++i) {
                for (size_t g = i * group; visible_tokens(tokens + i, s) > 0 && g < (i + 1) * group; ++g) {
                    merge_record(total + g * record, next + g * record, head_dim);
                }
            }
        }
        for (size_t i = 0; i < rows; ++i) {
            for (size_t g = 0; g < group; ++g) {
                const float *values = total + (i * group + g) * record;
                divide_record(values, head_dim, out + i * out_stride + (h * group + g) * head_dim);
            }
        }
    }
}
