// Attention of one row over its own blocks of the paged cache. Scores, weights and sums run over positions in order, sixteen
// at a time from position 0 of a block, so they depend on the row's own context only.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace native {

struct CacheShape {
    int64_t num_kv_heads, head_dim, block_size;

    int64_t head(int64_t block, int64_t kv_head) const { return (block * num_kv_heads + kv_head) * head_dim * block_size; }
};

// Put one row's keys and values [kv heads, head_dim] into `slot` of the cache.
inline void write_cache(const CacheShape& shape, bf16* keys, bf16* values, int64_t slot, const bf16* key, const bf16* value) {
    int64_t block = slot / shape.block_size, place = slot % shape.block_size, size = shape.block_size;
    for (int64_t head = 0; head < shape.num_kv_heads; head++, key += shape.head_dim, value += shape.head_dim) {
        bf16* key_block = keys + shape.head(block, head);
        bf16* value_block = values + shape.head(block, head);
        for (int64_t at = 0; at < shape.head_dim; at += 2)
            std::memcpy(key_block + (at / 2 * size + place) * 2, key + at, 2 * sizeof(bf16));
        for (int64_t at = 0; at < shape.head_dim; at += 16) {
            __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(value + at)));
            if (place % 2) wide = _mm512_slli_epi32(wide, 16);
            _mm512_mask_storeu_epi16(value_block + (place / 2 * shape.head_dim + at) * 2, place % 2 ? 0xaaaaaaaa : 0x55555555, wide);
        }
    }
}

// What the queries of one KV head see: positions [first, context) through the row's block table.
struct Context {
    const int64_t* table;
    int64_t first, context;
};

// Which of the sixteen positions from `at` on are seen.
inline __mmask16 visible(int64_t at, Context seen) {
    int64_t skipped = std::clamp<int64_t>(seen.first - at, 0, 16), kept = std::clamp<int64_t>(seen.context - at, 0, 16);
    return static_cast<__mmask16>(((1u << kept) - 1) & ~((1u << skipped) - 1));
}

// The softmax of the scores of positions [begin, end) but for the division: weights in bfloat16, and their sum. How far
// the range goes past what is seen changes nothing.
inline float softmax(float* scores, bf16* weights, int64_t begin, int64_t end, Context seen, float scale) {
    __m512 largest = _mm512_set1_ps(-INFINITY);
    for (int64_t at = begin; at < end; at += 16) {
        __m512 values = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), visible(at, seen), _mm512_loadu_ps(scores + at - begin), _mm512_set1_ps(scale));
        largest = _mm512_max_ps(largest, values);
        _mm512_storeu_ps(scores + at - begin, values);
    }
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest)), total = _mm512_setzero_ps();
    for (int64_t at = begin; at < end; at += 16) {
        __m512 powers = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + at - begin), top));
        powers = _mm512_maskz_mov_ps(visible(at, seen), powers);
        total = _mm512_add_ps(total, powers);
        store(weights + at - begin, powers);
    }
    return _mm512_reduce_add_ps(total);
}

// Sixteen positions, ahead of their use: blocks lie anywhere, so that only we know which comes next.
inline void prefetch_positions(const CacheShape& shape, const bf16* from) {
    for (int64_t at = 0; at < 16 * shape.head_dim; at += 32) _mm_prefetch(reinterpret_cast<const char*>(from + at), _MM_HINT_T0);
}

// On the vector unit: `group` queries [group, head_dim] that share a KV head; `out` is laid out like them.
class Avx512Attention {
  public:
    void attend(const CacheShape& shape, int64_t group, const bf16* queries, const bf16* keys, const bf16* values, int64_t kv_head, Context seen, bf16* out) {
        shape_ = shape;
        group_ = group;
        begin_ = seen.first / shape_.block_size * shape_.block_size;
        end_ = (seen.context + 15) / 16 * 16;
        scores_.resize(group_ * (end_ - begin_));
        weights_.resize(group_ * (end_ - begin_));
        score(queries, keys, values, kv_head, seen);
        float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
        int64_t width = end_ - begin_;
        for (int64_t head = 0; head < group_; head++)
            totals_[head] = softmax(scores_.data() + head * width, weights_.data() + head * width, begin_, end_, seen, scale);
        sum_values(values, kv_head, seen, out);
    }

  private:
    void score(const bf16* queries, const bf16* keys, const bf16* values, int64_t kv_head, Context seen) {
        for (int64_t at = begin_; at < end_; at += 16) {
            int64_t block = shape_.head(seen.table[at / shape_.block_size], kv_head);
            const bf16* corner = keys + block + at % shape_.block_size * 2;
            prefetch_positions(shape_, values + block + at % shape_.block_size * shape_.head_dim);
            if (at + shape_.block_size < end_)
                prefetch_positions(shape_, keys + shape_.head(seen.table[at / shape_.block_size + 1], kv_head) + at % shape_.block_size * shape_.head_dim);
            int64_t head = 0;
            for (; head + 3 <= group_; head += 3) score_heads<3>(queries, corner, head, at);
            for (; head < group_; head++) score_heads<1>(queries, corner, head, at);
        }
    }

    template <int count>
    void score_heads(const bf16* queries, const bf16* corner, int64_t head, int64_t at) {
        __m512 sums[count][2] = {};
        for (int64_t pair = 0; pair < shape_.head_dim / 2; pair += 2)
            for (int half = 0; half < 2; half++) {
                __m512bh keys = load_pairs(corner + (pair + half) * shape_.block_size * 2);
                for (int index = 0; index < count; index++) {
                    const bf16* query = queries + (head + index) * shape_.head_dim + (pair + half) * 2;
                    sums[index][half] = _mm512_dpbf16_ps(sums[index][half], broadcast_pair(query), keys);
                }
            }
        for (int index = 0; index < count; index++)
            _mm512_storeu_ps(scores_.data() + (head + index) * (end_ - begin_) + at - begin_, _mm512_add_ps(sums[index][0], sums[index][1]));
    }

    void sum_values(const bf16* values, int64_t kv_head, Context seen, bf16* out) {
        for (int64_t column = 0; column < shape_.head_dim; column += 32) {
            int64_t head = 0;
            for (; head + 3 <= group_; head += 3) sum_values_of<3>(head, values, kv_head, seen, column, out);
            for (; head < group_; head++) sum_values_of<1>(head, values, kv_head, seen, column, out);
        }
    }

    // Columns [column, column + 32) of the outputs of `count` heads: values times weights, over pairs of positions in order.
    template <int count>
    void sum_values_of(int64_t head, const bf16* values, int64_t kv_head, Context seen, int64_t column, bf16* out) {
        __m512 sums[count][2] = {};
        const bf16* weights = weights_.data() + head * (end_ - begin_);
        for (int64_t at = begin_; at < end_; at += 16) {
            int64_t block = seen.table[at / shape_.block_size];
            const bf16* from = values + shape_.head(block, kv_head) + (at % shape_.block_size / 2 * shape_.head_dim + column) * 2;
            int64_t num_seen = std::min<int64_t>(16, seen.context - at);
            for (int64_t place = 0; place < num_seen; place += 2, from += shape_.head_dim * 2) {
                __m512bh left = load_seen(from, num_seen - place), right = load_seen(from + 32, num_seen - place);
                for (int index = 0; index < count; index++) {
                    __m512bh weight = broadcast_pair(weights + index * (end_ - begin_) + at - begin_ + place);
                    sums[index][0] = _mm512_dpbf16_ps(sums[index][0], weight, left);
                    sums[index][1] = _mm512_dpbf16_ps(sums[index][1], weight, right);
                }
            }
        }
        for (int index = 0; index < count; index++) {
            __m512 scale = _mm512_set1_ps(1.0f / totals_[head + index]);
            bf16* output = out + (head + index) * shape_.head_dim + column;
            for (int half = 0; half < 2; half++) store(output + half * 16, _mm512_mul_ps(sums[index][half], scale));
        }
    }

    // Pairs of positions of which `num_seen` are in the context. One past it may be left over from another sequence, even
    // no number at all, and zero times that is none either.
    static __m512bh load_seen(const bf16* from, int64_t num_seen) {
        return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(num_seen > 1 ? 0xffffffff : 0x55555555, from));
    }

    CacheShape shape_{};
    int64_t group_ = 0, begin_ = 0, end_ = 0;
    Buffer<float> scores_;
    Buffer<bf16> weights_;
    float totals_[64];
};

}  // namespace native
