// What the inner rows of an MLP are bent with.
#pragma once
#include "vectors.h"

namespace native::NATIVE_UNIT {

// x (1 + tanh(z)) / 2 is x / (1 + e^-2z), with Hendrycks' and Gimpel's z (2016).
ALWAYS_INLINE F32 gelu_tanh(const F32& x) {
    F32 z = x * fmadd(x * x, F32::all(0.7978845608f * 0.044715f), F32::all(0.7978845608f));
    return x / (F32::all(1.0f) + exponential(z * F32::all(-2.0f)));
}

// x times the normal distribution's share below x, by Abramowitz and Stegun's 7.1.26, which is off by 1.5e-7 at most.
ALWAYS_INLINE F32 gelu(const F32& x) {
    F32 z = abs(x) * F32::all(0.7071067812f), t = F32::all(1.0f) / fmadd(z, F32::all(0.3275911f), F32::all(1.0f));
    F32 y = F32::all(1.061405429f);
    for (float term : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) y = fmadd(y, t, F32::all(term));
    F32 beyond = y * t * exponential(-(z * z)) * F32::all(0.5f);
    return x * select(less(x, F32{}), beyond, F32::all(1.0f) - beyond);
}

ALWAYS_INLINE F32 activated(int64_t kind, const F32& x) {
    if (kind == SILU) return silu(x);
    return kind == GELU ? gelu(x) : gelu_tanh(x);
}

// Numbers of a row [width] and their bias, if there is one.
template <class Element>
ALWAYS_INLINE F32 with_bias(const Element* numbers, const Element* bias, int64_t at) {
    return bias ? load(numbers + at) + load(bias + at) : load(numbers + at);
}

// Gates, bent, times ups; where there are no gates, ups, bent. Rows of `width`, with biases or null.
template <class Element>
struct Inner {
    const Element *gates, *ups, *gate_bias, *up_bias;

    void activate(int64_t kind, int64_t width, Element* out) const {
        for (int64_t at = 0; at < width; at += 16) {
            F32 up = with_bias(ups, up_bias, at);
            store(out + at, gates ? activated(kind, with_bias(gates, gate_bias, at)) * up : activated(kind, up));
        }
    }
};

}  // namespace native::NATIVE_UNIT
