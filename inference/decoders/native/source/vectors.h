// Sixteen numbers at a time: conversions, sums in a fixed order, exponentials.
#pragma once
#include <new>
#include <vector>

#include <immintrin.h>

#include <initializer_list>

#include "views.h"

namespace native {

// Memory that begins with a line of the cache, so that sixteen numbers never lie across two.
template <class Number>
struct Aligned {
    using value_type = Number;
    static constexpr std::align_val_t LINE{64};

    Aligned() = default;
    template <class Other>
    Aligned(const Aligned<Other>&) {}
    Number* allocate(size_t count) { return static_cast<Number*>(::operator new(count * sizeof(Number), LINE)); }
    void deallocate(Number* numbers, size_t) { ::operator delete(numbers, LINE); }
    bool operator==(const Aligned&) const { return true; }
};

template <class Number>
using Buffer = std::vector<Number, Aligned<Number>>;

inline __m512 widen(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline __m512 load(const bf16* from) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }

inline void store(float* to, __m512 values) { _mm512_storeu_ps(to, values); }

inline void store(bf16* to, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

inline __m512bh load_pairs(const void* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

// The pair at `from` in every lane.
inline __m512bh broadcast_pair(const void* from) {
    int pair;
    __builtin_memcpy(&pair, from, 4);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

inline float to_float(bf16 value) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float wide;
    __builtin_memcpy(&wide, &bits, 4);
    return wide;
}

// Round to nearest, ties to even; a NaN stays one.
inline bf16 to_bf16(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<bf16>(bits >> 16 | 0x40);
    return static_cast<bf16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// e^x by range reduction to [-ln 2 / 2, ln 2 / 2] and a polynomial of degree 6; relative error below 2e-7.
inline __m512 exponential(__m512 x) {
    // In this order of operands a NaN passes.
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.0f / 720);
    for (float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(term));
    return _mm512_scalef_ps(y, n);
}

// The index of the largest of `width` numbers, the first of equals. Of numbers that are not all finite it means nothing.
inline int64_t argmax(const float* numbers, int64_t width, bool* is_finite) {
    const __m512 infinity = _mm512_set1_ps(__builtin_inff());
    __m512 largest = _mm512_sub_ps(_mm512_setzero_ps(), infinity);
    __m512i places = _mm512_setzero_si512(), here = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 odd = 0;
    for (int64_t at = 0; at < width; at += 16, here = _mm512_add_epi32(here, _mm512_set1_epi32(16))) {
        __mmask16 known = static_cast<__mmask16>(width - at < 16 ? (1 << (width - at)) - 1 : 0xffff);
        __m512 values = _mm512_maskz_loadu_ps(known, numbers + at);
        __mmask16 larger = _mm512_mask_cmp_ps_mask(known, values, largest, _CMP_GT_OQ);
        largest = _mm512_mask_mov_ps(largest, larger, values);
        places = _mm512_mask_mov_epi32(places, larger, here);
        odd |= _mm512_cmp_ps_mask(_mm512_abs_ps(values), infinity, _CMP_NLT_UQ);  // which a NaN is too
    }
    *is_finite = !odd;
    __mmask16 equal = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(_mm512_reduce_max_ps(largest)), _CMP_EQ_OQ);
    return odd ? 0 : _mm512_mask_reduce_min_epi32(equal, places);
}

// x * sigmoid(x).
inline __m512 silu(__m512 x) {
    __m512 one = _mm512_set1_ps(1.0f);
    __m512 y = _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
    return y;
}

}  // namespace native
