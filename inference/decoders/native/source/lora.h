// One adapter's update of up to 16 rows: out = (out + x A B) * scale. A row's sums run over `in`, then over the rank,
// in a fixed order.
#pragma once
#include "linear.h"

namespace native {

constexpr int64_t CHUNK = 16;  // rows of one adapter that are worked on together
constexpr int64_t MAX_RANK = 512;

// sums[row][r] = x[row] . a[r], for `height` rows and `width` ranks at once.
template <int height, int width>
void shrink_patch(const bf16* const* rows, const bf16* a, int64_t in, float (*sums)[MAX_RANK], int64_t rank) {
    __m512 lanes[height][width] = {};
    for (int64_t at = 0; at < in; at += 32)
        for (int column = 0; column < width; column++) {
            __m512bh weights = load_pairs(a + (rank + column) * in + at);
            for (int row = 0; row < height; row++)
                lanes[row][column] = _mm512_dpbf16_ps(lanes[row][column], load_pairs(rows[row] + at), weights);
        }
    for (int row = 0; row < height; row++)
        for (int column = 0; column < width; column++) sums[row][rank + column] = _mm512_reduce_add_ps(lanes[row][column]);
}

inline void shrink(const bf16* const* rows, int64_t count, const bf16* a, int64_t in, int64_t rank, float (*sums)[MAX_RANK]) {
    for (int64_t at = 0; at < rank; at += 2) {
        int64_t row = 0;
        for (; row + 4 <= count; row += 4) shrink_patch<4, 2>(rows + row, a, in, sums + row, at);
        for (; row < count; row++) shrink_patch<1, 2>(rows + row, a, in, sums + row, at);
    }
}

// Add to `outs` (bfloat16, or float32) the sums, rounded to bfloat16, times b [rank / 2][out][2].
template <class Number>
void expand(
    Number* const* outs, int64_t count, const bf16 (*sums)[MAX_RANK], const bf16* b, int64_t rank, int64_t out, const float* scale) {
    for (int64_t column = 0; column < out; column += 16)
        for (int64_t row = 0; row < count; row++) {
            __m512 total = _mm512_setzero_ps();
            for (int64_t at = 0; at < rank; at += 2)
                total = _mm512_dpbf16_ps(total, broadcast_pair(sums[row] + at), load_pairs(b + at * out + column * 2));
            total = _mm512_add_ps(load(outs[row] + column), total);
            if (scale) total = _mm512_mul_ps(total, _mm512_loadu_ps(scale + column));
            store(outs[row] + column, total);
        }
}

// Add the update of `pair` in `layer` to the rows `outs` [count][out], whose inputs are `rows` [count][in].
template <class Number>
void add_lora(
    const PairView& pair, int64_t layer, const bf16* const* rows, Number* const* outs, int64_t count, int64_t in, int64_t out) {
    if (!pair.rank) return;
    float sums[CHUNK][MAX_RANK];
    bf16 rounded[CHUNK][MAX_RANK];
    shrink(rows, count, pair.a + layer * pair.rank * in, in, pair.rank, sums);
    for (int64_t row = 0; row < count; row++)
        for (int64_t at = 0; at < pair.rank; at++) rounded[row][at] = to_bf16(sums[row][at]);
    const float* scale = pair.scale ? pair.scale + layer * out : nullptr;
    expand(outs, count, rounded, pair.b + layer * pair.rank * out, pair.rank, out, scale);
}

// The same for an embedding: `sums` are looked up, not computed.
inline void add_lora_embedding(const PairView& pair, int64_t token_id, bf16* embedded, int64_t hidden) {
    bf16 sums[1][MAX_RANK];
    std::memcpy(sums[0], pair.a + token_id * pair.rank, pair.rank * sizeof(bf16));
    expand(&embedded, 1, sums, pair.b, pair.rank, hidden, pair.scale);
}

}  // namespace native
