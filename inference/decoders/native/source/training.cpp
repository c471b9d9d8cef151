// What training does to single rows, one pass over memory each: RMSNorm, RoPE, SwiGLU, causal softmax, and their
// gradients. Everything is bfloat16 in memory and float in between.
#include <cmath>

#include "vectors.h"

using namespace native;

namespace {

float total(__m512 values) { return _mm512_reduce_add_ps(values); }

// The lanes below `count`.
__mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1 << count) - 1); }

__m512 load_some(const bf16* from, __mmask16 lanes) { return widen(_mm256_maskz_loadu_epi16(lanes, from)); }

void store_some(bf16* to, __mmask16 lanes, __m512 values) {
    _mm256_mask_storeu_epi16(to, lanes, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

// Call `function(at, lanes)` for every sixteen of `width` numbers.
template <class Function>
void for_lanes(int64_t width, const Function& function) {
    for (int64_t at = 0; at < width; at += 16) function(at, first_lanes(width - at));
}

// Probabilities over the first `count` scores of a row of `width`, zero after them, in place.
void softmax_row(bf16* row, int64_t count, int64_t width, __m512 scale) {
    __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for_lanes(count, [&](int64_t at, __mmask16 lanes) { largest = _mm512_mask_max_ps(largest, lanes, largest, load_some(row + at, lanes)); });
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    auto power = [&](int64_t at) {
        __mmask16 lanes = first_lanes(count - at);
        return _mm512_maskz_mov_ps(lanes, exponential(_mm512_mul_ps(_mm512_sub_ps(load_some(row + at, lanes), top), scale)));
    };
    for_lanes(count, [&](int64_t at, __mmask16) { sum = _mm512_add_ps(sum, power(at)); });
    __m512 inverse = _mm512_set1_ps(1.0f / total(sum));
    for_lanes(width, [&](int64_t at, __mmask16 lanes) {
        store_some(row + at, lanes, at < count ? _mm512_mul_ps(power(at), inverse) : _mm512_setzero_ps());
    });
}

// The gradient of scores from that of their probabilities, in place.
void softmax_row_backward(bf16* grad, const bf16* row, int64_t count, int64_t width, __m512 scale) {
    __m512 sum = _mm512_setzero_ps();
    for_lanes(count, [&](int64_t at, __mmask16 lanes) {
        sum = _mm512_fmadd_ps(load_some(grad + at, lanes), load_some(row + at, lanes), sum);
    });
    __m512 along = _mm512_set1_ps(total(sum));
    for_lanes(width, [&](int64_t at, __mmask16 lanes) {
        __m512 slope = _mm512_sub_ps(load_some(grad + at, lanes), along);
        store_some(grad + at, lanes, _mm512_mul_ps(_mm512_mul_ps(slope, load_some(row + at, lanes)), scale));
    });
}

}  // namespace

extern "C" {

// `out` = rows / rms(rows) * weight; `inverse` [n] keeps 1 / rms.
void training_rms_norm(const bf16* rows, const bf16* weight, bf16* out, float* inverse, int64_t n, int64_t width, float eps) {
    for (int64_t row = 0; row < n; row++, rows += width, out += width) {
        __m512 squares = _mm512_setzero_ps();
        for_lanes(width, [&](int64_t at, __mmask16 lanes) {
            __m512 x = load_some(rows + at, lanes);
            squares = _mm512_fmadd_ps(x, x, squares);
        });
        inverse[row] = 1.0f / std::sqrt(total(squares) / static_cast<float>(width) + eps);
        __m512 scale = _mm512_set1_ps(inverse[row]);
        for_lanes(width, [&](int64_t at, __mmask16 lanes) {
            __m512 normed = _mm512_mul_ps(load_some(rows + at, lanes), scale);
            store_some(out + at, lanes, _mm512_mul_ps(normed, load_some(weight + at, lanes)));
        });
    }
}

void training_rms_norm_backward(const bf16* grad, const bf16* rows, const bf16* weight, const float* inverse, bf16* out, int64_t n, int64_t width) {
    for (int64_t row = 0; row < n; row++, grad += width, rows += width, out += width) {
        __m512 scale = _mm512_set1_ps(inverse[row]), along = _mm512_setzero_ps();
        auto slope = [&](int64_t at, __mmask16 lanes) { return _mm512_mul_ps(load_some(grad + at, lanes), load_some(weight + at, lanes)); };
        for_lanes(width, [&](int64_t at, __mmask16 lanes) { along = _mm512_fmadd_ps(slope(at, lanes), load_some(rows + at, lanes), along); });
        __m512 mean = _mm512_set1_ps(total(along) * inverse[row] * inverse[row] / static_cast<float>(width));
        for_lanes(width, [&](int64_t at, __mmask16 lanes) {
            __m512 across = _mm512_fnmadd_ps(load_some(rows + at, lanes), mean, slope(at, lanes));
            store_some(out + at, lanes, _mm512_mul_ps(across, scale));
        });
    }
}

// `out` [n, inner] = silu(gate) * up of `gate_up` [n, 2 * inner].
void training_swiglu(const bf16* gate_up, bf16* out, int64_t n, int64_t inner) {
    for (int64_t row = 0; row < n; row++, gate_up += 2 * inner, out += inner)
        for_lanes(inner, [&](int64_t at, __mmask16 lanes) {
            store_some(out + at, lanes, _mm512_mul_ps(silu(load_some(gate_up + at, lanes)), load_some(gate_up + inner + at, lanes)));
        });
}

void training_swiglu_backward(const bf16* grad, const bf16* gate_up, bf16* out, int64_t n, int64_t inner) {
    __m512 one = _mm512_set1_ps(1.0f);
    for (int64_t row = 0; row < n; row++, grad += inner, gate_up += 2 * inner, out += 2 * inner)
        for_lanes(inner, [&](int64_t at, __mmask16 lanes) {
            __m512 slope = load_some(grad + at, lanes), gate = load_some(gate_up + at, lanes), up = load_some(gate_up + inner + at, lanes);
            __m512 sigmoid = _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate))));
            __m512 derivative = _mm512_mul_ps(sigmoid, _mm512_fmadd_ps(gate, _mm512_sub_ps(one, sigmoid), one));
            store_some(out + at, lanes, _mm512_mul_ps(_mm512_mul_ps(slope, up), derivative));
            store_some(out + inner + at, lanes, _mm512_mul_ps(slope, _mm512_mul_ps(gate, sigmoid)));
        });
}

// `out` [n, heads, dim] = the heads of rows that lie `stride` apart, rotated by their angles, or back with `turn` -1.
void training_rope(const bf16* rows, int64_t stride, const bf16* cos, const bf16* sin, bf16* out, int64_t n, int64_t heads, int64_t dim, float turn) {
    int64_t half = dim / 2;
    __m512 way = _mm512_set1_ps(turn);
    for (int64_t row = 0; row < n; row++, rows += stride, cos += dim, sin += dim, out += heads * dim)
        for (int64_t head = 0; head < heads * dim; head += dim)
            for_lanes(half, [&](int64_t at, __mmask16 lanes) {
                __m512 x = load_some(rows + head + at, lanes), y = load_some(rows + head + half + at, lanes);
                __m512 c = load_some(cos + at, lanes), s = _mm512_mul_ps(load_some(sin + at, lanes), way);
                store_some(out + head + at, lanes, _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
                store_some(out + head + half + at, lanes, _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
            });
}

// In place, `scores` [n, length]: row r belongs to position r % length and sees the scores up to it.
void training_softmax(bf16* scores, int64_t n, int64_t length, float scale) {
    for (int64_t row = 0; row < n; row++) softmax_row(scores + row * length, row % length + 1, length, _mm512_set1_ps(scale));
}

void training_softmax_backward(bf16* grad, const bf16* probabilities, int64_t n, int64_t length, float scale) {
    for (int64_t row = 0; row < n; row++)
        softmax_row_backward(grad + row * length, probabilities + row * length, row % length + 1, length, _mm512_set1_ps(scale));
}

}
