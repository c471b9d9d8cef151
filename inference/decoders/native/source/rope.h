// Rotary embedding (Su et al., 2021) of one head, in place.
#pragma once
#include "vectors.h"

namespace native::NATIVE_UNIT {

// The halves of `head` [dim] are the two coordinates; cos and sin are [dim].
template <class Element>
void rope_halves(Element* head, const float* cos, const float* sin, int64_t dim) {
    int64_t half = dim / 2;
    for (int64_t at = 0; at < half; at += 16) {
        F32 x = load(head + at), y = load(head + half + at), c = load(cos + at), s = load(sin + at);
        store(head + at, fmadd(x, c, -(y * s)));
        store(head + half + at, fmadd(y, c, x * s));
    }
}

// The same one pair after the other: of the halves of any width, or each even number with the next.
template <class Element>
void rope_pairs(Element* head, const float* cos, const float* sin, int64_t dim, bool is_interleaved) {
    for (int64_t pair = 0; pair < dim / 2; pair++) {
        Element &x = head[is_interleaved ? 2 * pair : pair], &y = head[is_interleaved ? 2 * pair + 1 : dim / 2 + pair];
        float left = number(x), right = number(y), c = cos[is_interleaved ? 2 * pair : pair], s = sin[is_interleaved ? 2 * pair : pair];
        round_to(left * c - right * s, x);
        round_to(right * c + left * s, y);
    }
}

template <class Element>
void rope_head(Element* head, const float* cos, const float* sin, int64_t dim, bool is_interleaved) {
    if (is_interleaved || dim % 32) return rope_pairs(head, cos, sin, dim, is_interleaved);
    rope_halves(head, cos, sin, dim);
}

}  // namespace native::NATIVE_UNIT
