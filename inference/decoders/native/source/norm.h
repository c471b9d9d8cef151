// Norms of rows, of queries and of keys. Sums run over the row in a fixed order.
#pragma once
#include <cmath>

#include "vectors.h"

namespace native::NATIVE_UNIT {

// Scale `row` [width] to unit mean square, then by the weight. It may be where it goes.
template <class Element>
void rms_norm_row(const Element* row, int64_t width, const float* weight, float eps, Element* to) {
    F32 squares = {};
    for (int64_t at = 0; at < width; at += 16) squares = fmadd(load(row + at), load(row + at), squares);
    F32 scale = F32::all(1.0f / std::sqrt(total(squares) / static_cast<float>(width) + eps));
    for (int64_t at = 0; at < width; at += 16) store(to + at, load(row + at) * scale * load(weight + at));
}

// The same about the row's mean, and a bias added, and perhaps an adapter's `shift`.
template <class Element>
void layer_norm_row(const Element* row, int64_t width, const NormView& norm, float eps, Element* to, const float* shift) {
    F32 sums = {}, squares = {};
    for (int64_t at = 0; at < width; at += 16) sums = sums + load(row + at);
    F32 mean = F32::all(total(sums) / static_cast<float>(width));
    for (int64_t at = 0; at < width; at += 16) squares = fmadd(load(row + at) - mean, load(row + at) - mean, squares);
    F32 scale = F32::all(1.0f / std::sqrt(total(squares) / static_cast<float>(width) + eps));
    for (int64_t at = 0; at < width; at += 16) {
        F32 normed = fmadd((load(row + at) - mean) * scale, load(norm.weight + at), load(norm.bias + at));
        store(to + at, shift ? normed + load(shift + at) : normed);
    }
}

template <class Element>
void norm_row(const Element* row, int64_t width, const NormView& norm, float eps, Element* to, const float* shift = nullptr) {
    if (norm.bias) return layer_norm_row(row, width, norm, eps, to, shift);
    rms_norm_row(row, width, norm.weight, eps, to);
}

}  // namespace native::NATIVE_UNIT
