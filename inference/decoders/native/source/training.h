// What training does to single rows, one pass over memory each: RMSNorm, RoPE, SwiGLU, causal softmax, and their
// gradients. Everything is bfloat16 in memory and float in between.
#pragma once
#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace native::NATIVE_UNIT {

// The first `count` lanes; the others are zero.
ALWAYS_INLINE F32 load_some(const bf16* from, int64_t count) {
    if (count >= 16) return load(from);
    bf16 lanes[16] = {};
    std::memcpy(lanes, from, count * sizeof(bf16));
    return load(lanes);
}

ALWAYS_INLINE void store_some(bf16* to, int64_t count, const F32& values) {
    if (count >= 16) return store(to, values);
    bf16 lanes[16];
    store(lanes, values);
    std::memcpy(to, lanes, count * sizeof(bf16));
}

// Call `function(at, count)` for every sixteen of `width` numbers.
template <class Function>
ALWAYS_INLINE void for_lanes(int64_t width, const Function& function) {
    int64_t at = 0;
    for (; at + 16 <= width; at += 16) function(at, 16);
    if (at < width) function(at, width - at);
}

// Probabilities over the first `seen` scores of a row of `width`, zero after them, in place.
inline void softmax_row(bf16* row, int64_t seen, int64_t width, const F32& scale) {
    F32 lowest = F32::all(-__builtin_inff()), largest = lowest, sum = {};
    for_lanes(seen, [&](int64_t at, int64_t count) { largest = max(largest, select(between(0, count), load_some(row + at, count), lowest)); });
    F32 top = F32::all(largest_of(largest));
    auto power = [&](int64_t at) {
        int64_t count = std::clamp<int64_t>(seen - at, 0, 16);
        return select(between(0, count), exponential((load_some(row + at, count) - top) * scale), F32{});
    };
    for_lanes(seen, [&](int64_t at, int64_t) { sum = sum + power(at); });
    F32 inverse = F32::all(1.0f / total(sum));
    for_lanes(width, [&](int64_t at, int64_t count) { store_some(row + at, count, at < seen ? power(at) * inverse : F32{}); });
}

// The gradient of scores from that of their probabilities, in place.
inline void softmax_row_backward(bf16* grad, const bf16* row, int64_t seen, int64_t width, const F32& scale) {
    F32 sum = {};
    for_lanes(seen, [&](int64_t at, int64_t count) { sum = fmadd(load_some(grad + at, count), load_some(row + at, count), sum); });
    F32 along = F32::all(total(sum));
    for_lanes(width, [&](int64_t at, int64_t count) {
        F32 slope = load_some(grad + at, count) - along;
        store_some(grad + at, count, slope * load_some(row + at, count) * scale);
    });
}

// `out` = rows / rms(rows) * weight; `inverse` [n] keeps 1 / rms.
inline void rms_norm(const bf16* rows, const bf16* weight, bf16* out, float* inverse, int64_t n, int64_t width, float eps) {
    for (int64_t row = 0; row < n; row++, rows += width, out += width) {
        F32 squares = {};
        for_lanes(width, [&](int64_t at, int64_t count) {
            F32 x = load_some(rows + at, count);
            squares = fmadd(x, x, squares);
        });
        inverse[row] = 1.0f / std::sqrt(total(squares) / static_cast<float>(width) + eps);
        F32 scale = F32::all(inverse[row]);
        for_lanes(width, [&](int64_t at, int64_t count) { store_some(out + at, count, load_some(rows + at, count) * scale * load_some(weight + at, count)); });
    }
}

inline void rms_norm_backward(const bf16* grad, const bf16* rows, const bf16* weight, const float* inverse, bf16* out, int64_t n, int64_t width) {
    for (int64_t row = 0; row < n; row++, grad += width, rows += width, out += width) {
        F32 scale = F32::all(inverse[row]), along = {};
        auto slope = [&](int64_t at, int64_t count) { return load_some(grad + at, count) * load_some(weight + at, count); };
        for_lanes(width, [&](int64_t at, int64_t count) { along = fmadd(slope(at, count), load_some(rows + at, count), along); });
        F32 mean = F32::all(total(along) * inverse[row] * inverse[row] / static_cast<float>(width));
        for_lanes(width, [&](int64_t at, int64_t count) {
            F32 across = fnmadd(load_some(rows + at, count), mean, slope(at, count));
            store_some(out + at, count, across * scale);
        });
    }
}

// `out` [n, inner] = silu(gate) * up of `gate_up` [n, 2 * inner].
inline void swiglu(const bf16* gate_up, bf16* out, int64_t n, int64_t inner) {
    for (int64_t row = 0; row < n; row++, gate_up += 2 * inner, out += inner)
        for_lanes(inner, [&](int64_t at, int64_t count) {
            store_some(out + at, count, silu(load_some(gate_up + at, count)) * load_some(gate_up + inner + at, count));
        });
}

inline void swiglu_backward(const bf16* grad, const bf16* gate_up, bf16* out, int64_t n, int64_t inner) {
    F32 one = F32::all(1.0f);
    for (int64_t row = 0; row < n; row++, grad += inner, gate_up += 2 * inner, out += 2 * inner)
        for_lanes(inner, [&](int64_t at, int64_t count) {
            F32 slope = load_some(grad + at, count), gate = load_some(gate_up + at, count), up = load_some(gate_up + inner + at, count);
            F32 gated = sigmoid(gate), derivative = gated * fmadd(gate, one - gated, one);
            store_some(out + at, count, slope * up * derivative);
            store_some(out + inner + at, count, slope * (gate * gated));
        });
}

// `out` [n, heads, dim] = the heads of rows that lie `stride` apart, rotated by their angles, or back with `turn` -1.
inline void rope(const bf16* rows, int64_t stride, const bf16* cos, const bf16* sin, bf16* out, int64_t n, int64_t heads, int64_t dim, float turn) {
    int64_t half = dim / 2;
    for (int64_t row = 0; row < n; row++, rows += stride, cos += dim, sin += dim, out += heads * dim)
        for (int64_t head = 0; head < heads * dim; head += dim)
            for_lanes(half, [&](int64_t at, int64_t count) {
                F32 x = load_some(rows + head + at, count), y = load_some(rows + head + half + at, count);
                F32 c = load_some(cos + at, count), s = load_some(sin + at, count) * F32::all(turn);
                store_some(out + head + at, count, fmadd(x, c, -(y * s)));
                store_some(out + head + half + at, count, fmadd(y, c, x * s));
            });
}

// In place, `scores` [n, length]: row r belongs to position r % length and sees the scores up to it.
inline void softmax_rows(bf16* scores, int64_t n, int64_t length, float scale) {
    for (int64_t row = 0; row < n; row++) softmax_row(scores + row * length, row % length + 1, length, F32::all(scale));
}

inline void softmax_rows_backward(bf16* grad, const bf16* probabilities, int64_t n, int64_t length, float scale) {
    for (int64_t row = 0; row < n; row++)
        softmax_row_backward(grad + row * length, probabilities + row * length, row % length + 1, length, F32::all(scale));
}

}  // namespace native::NATIVE_UNIT
