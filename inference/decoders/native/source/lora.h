// One adapter's update of up to 16 rows: out = (out + x A B) * scale + bias. A row's sums run over `in`, then over the rank,
// in a fixed order. A blend's gate comes between A and B.
#pragma once
#include "gate.h"

namespace native::NATIVE_UNIT {

// sums[row][r] = x[row] . a[r], for `height` rows and two ranks at once.
template <int height, class Element>
void shrink_patch(const Element* const* rows, const Element* a, int64_t in, float (*sums)[MAX_RANK], int64_t rank) {
    F32 lanes[height][2] = {};
    for (int64_t at = 0; at < in; at += 16 * PACK<Element>)
        for (int column = 0; column < 2; column++) {
            Packs<Element> weights = load_packs(a + (rank + column) * in + at);
            for (int row = 0; row < height; row++) lanes[row][column] = dot(lanes[row][column], load_packs(rows[row] + at), weights);
        }
    for (int row = 0; row < height; row++)
        for (int column = 0; column < 2; column++) sums[row][rank + column] = total(lanes[row][column]);
}

template <class Element>
void shrink(const Element* const* rows, int64_t count, const Element* a, int64_t in, int64_t rank, float (*sums)[MAX_RANK]) {
    constexpr int TALL = PARTS == 1 ? 4 : 2;
    for (int64_t at = 0; at < rank; at += 2) {
        int64_t row = 0;
        for (; row + TALL <= count; row += TALL) shrink_patch<TALL>(rows + row, a, in, sums + row, at);
        for (; row < count; row++) shrink_patch<1>(rows + row, a, in, sums + row, at);
    }
}

// Add to `outs` (elements, or float32) the sums, rounded to elements, times b [rank / pack][out][pack].
template <class Element, class Number>
void expand(Number* const* outs, int64_t count, const Element (*sums)[MAX_RANK], const Element* b, int64_t rank, int64_t out, const float* scale,
            const float* bias) {
    for (int64_t column = 0; column < out; column += 16)
        for (int64_t row = 0; row < count; row++) {
            F32 update = {};
            for (int64_t at = 0; at < rank; at += PACK<Element>)
                update = dot(update, broadcast_pack(sums[row] + at), load_packs(b + at * out + column * PACK<Element>));
            update = load(outs[row] + column) + update;
            if (scale) update = update * load(scale + column);
            if (bias) update = update + load(bias + column);
            store(outs[row] + column, update);
        }
}

// Add the update of `pair` in `layer` to the rows `outs` [count][out], whose inputs are `rows` [count][in]. `given` are the
// rows' coefficients by a gate that looks at the residual stream; what a gate makes of the rows is added to `told`.
template <class Element, class Number>
void add_lora(const PairView& pair, int64_t layer, const Element* const* rows, Number* const* outs, int64_t count, int64_t in, int64_t out,
              const float* const* given = nullptr, float* const* told = nullptr) {
    float sums[CHUNK][MAX_RANK];
    Element rounded[CHUNK][MAX_RANK];
    shrink(rows, count, static_cast<const Element*>(pair.a) + layer * pair.rank * in, in, pair.rank, sums);
    if (pair.gate) weigh(pair, layer, rows, count, in, sums, given, told);
    for (int64_t row = 0; row < count; row++)
        for (int64_t at = 0; at < pair.rank; at++) round_to(sums[row][at], rounded[row][at]);
    const float* scale = pair.scale ? pair.scale + layer * out : nullptr;
    const float* bias = pair.bias ? pair.bias + layer * out : nullptr;
    expand(outs, count, rounded, static_cast<const Element*>(pair.b) + layer * pair.rank * out, pair.rank, out, scale, bias);
}

// The same for an embedding: `sums` are looked up, not computed.
template <class Element>
void add_lora_embedding(const PairView& pair, int64_t token_id, Element* embedded, int64_t hidden) {
    Element sums[1][MAX_RANK];
    std::memcpy(sums[0], static_cast<const Element*>(pair.a) + token_id * pair.rank, pair.rank * sizeof(Element));
    expand(&embedded, 1, sums, static_cast<const Element*>(pair.b), pair.rank, hidden, pair.scale, pair.bias);
}

}  // namespace native::NATIVE_UNIT
