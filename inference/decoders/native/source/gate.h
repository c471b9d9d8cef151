// What a blend's gate makes of rows: a coefficient for each of its parts, by which the part's ranks of a row's sums are
// multiplied. All is float32, and a row's sums are in an order of its own.
#pragma once
#include <algorithm>

#include "packs.h"

namespace native::NATIVE_UNIT {

constexpr int64_t CHUNK = 16;  // rows of one adapter that are worked on together
constexpr int64_t MAX_RANK = 512;
constexpr int64_t MAX_GATED = 32;  // parts, and columns of a projection

// projected[row][column] = x[row] . columns[column], for `height` rows.
template <int height, class Element>
void project_patch(const Element* const* rows, const float* columns, int64_t in, float (*projected)[MAX_GATED], int64_t column) {
    F32 lanes[height] = {};
    for (int64_t at = 0; at < in; at += 16) {
        F32 weights = load(columns + column * in + at);
        for (int row = 0; row < height; row++) lanes[row] = fmadd(load(rows[row] + at), weights, lanes[row]);
    }
    for (int row = 0; row < height; row++) projected[row][column] = total(lanes[row]);
}

template <class Element>
void project(const Element* const* rows, int64_t count, const float* columns, int64_t num_columns, int64_t in, float (*projected)[MAX_GATED]) {
    for (int64_t column = 0; column < num_columns; column++) {
        int64_t row = 0;
        for (; row + 4 <= count; row += 4) project_patch<4>(rows + row, columns, in, projected + row, column);
        for (; row < count; row++) project_patch<1>(rows + row, columns, in, projected + row, column);
    }
}

// Of each part the sum over its ranks of sums[r] times what `keys` [columns][rank] make of the query.
inline void agree(const GateView& gate, const float* keys, const float* query, const float* sums, int64_t rank, float* scores) {
    float key[MAX_RANK] = {};
    for (int64_t column = 0; column < gate.columns; column++)
        for (int64_t at = 0; at < rank; at++) key[at] += query[column] * keys[column * rank + at];
    for (int64_t part = 0, at = 0; part < gate.parts; part++) {
        scores[part] = 0;
        for (; at < gate.ends[part]; at++) scores[part] += sums[at] * key[at];
    }
}

// Mark the `count` largest of `scores`, of equals the first.
inline void choose(const float* scores, int64_t parts, int64_t count, bool* chosen) {
    for (int64_t part = 0; part < parts; part++) chosen[part] = count == parts;
    for (int64_t taken = 0; count < parts && taken < count; taken++) {
        int64_t best = -1;
        for (int64_t part = 0; part < parts; part++)
            if (!chosen[part] && (best < 0 || scores[part] > scores[best])) best = part;
        chosen[best] = true;
    }
}

// The softmax over the chosen scores, 0 of the others, plus a bias.
inline void to_coefficients(const GateView& gate, int64_t layer, const float* scores, float* coefficients) {
    bool chosen[MAX_GATED];
    choose(scores, gate.parts, gate.top_k ? std::min(gate.top_k, gate.parts) : gate.parts, chosen);
    float top = -__builtin_inff(), all = 0;
    for (int64_t part = 0; part < gate.parts; part++) top = chosen[part] && !(scores[part] < top) ? scores[part] : top;
    alignas(64) float powers[MAX_GATED] = {};
    for (int64_t part = 0; part < gate.parts; part++) powers[part] = (scores[part] - top) / gate.temperature;
    for (int64_t at = 0; at < gate.parts; at += 16) store(powers + at, exponential(load(powers + at)));
    for (int64_t part = 0; part < gate.parts; part++) all += chosen[part] ? powers[part] : 0;
    for (int64_t part = 0; part < gate.parts; part++) {
        coefficients[part] = chosen[part] ? powers[part] / all : 0;
        if (gate.bias) coefficients[part] += gate.bias[layer * gate.parts + part];
    }
}

// Of rows of the residual stream, for a gate that looks at it where a layer begins.
template <class Element>
void weigh_stream(const GateView& gate, int64_t layer, const Element* const* rows, int64_t count, int64_t in, float* const* coefficients) {
    float scores[CHUNK][MAX_GATED];
    project(rows, count, gate.projection + layer * gate.columns * in, gate.columns, in, scores);
    for (int64_t row = 0; row < count; row++) to_coefficients(gate, layer, scores[row], coefficients[row]);
}

// Multiply the ranks of `sums` by their parts' coefficients: those `given` of a gate that looks at the stream, else of the
// rows themselves. Where `told` is not null they are added to each row's [MAX_GATED], and 1 to what lies behind them.
template <class Element>
void weigh(const PairView& pair, int64_t layer, const Element* const* rows, int64_t count, int64_t in, float (*sums)[MAX_RANK],
           const float* const* given, float* const* told) {
    const GateView& gate = *pair.gate;
    float projected[CHUNK][MAX_GATED], scores[MAX_GATED], coefficients[MAX_GATED];
    if (gate.kind != FLOW) project(rows, count, gate.projection + layer * gate.columns * in, gate.columns, in, projected);
    for (int64_t row = 0; row < count; row++) {
        if (gate.kind == RAMOLE)
            agree(gate, gate.keys + layer * gate.columns * pair.rank, projected[row], sums[row], pair.rank, scores);
        else if (gate.kind == ARROW)
            for (int64_t part = 0; part < gate.parts; part++) scores[part] = __builtin_fabsf(projected[row][part]);
        if (gate.kind != FLOW) to_coefficients(gate, layer, scores, coefficients);
        const float* own = gate.kind == FLOW ? given[row] : coefficients;
        for (int64_t part = 0, at = 0; part < gate.parts; part++)
            for (; at < gate.ends[part]; at++) sums[row][at] *= own[part];
        if (!told) continue;
        for (int64_t part = 0; part < gate.parts; part++) told[row][part] += own[part];
        told[row][MAX_GATED] += 1;
    }
}

}  // namespace native::NATIVE_UNIT
