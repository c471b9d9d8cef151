// Attention of one row over its own blocks of the paged cache. Scores, weights and sums run over positions in order,
// sixteen at a time from position 0 of a block, so they depend on the row's own context only.
#pragma once
#include <algorithm>
#include <cmath>

#include "packs.h"

namespace native::NATIVE_UNIT {

struct CacheShape {
    int64_t num_kv_heads, head_dim, block_size;

    int64_t head(int64_t block, int64_t kv_head) const { return (block * num_kv_heads + kv_head) * head_dim * block_size; }
};

// Put one row's keys and values [kv heads, head_dim] into `slot` of the cache.
template <class Element>
void write_cache(const CacheShape& shape, Element* keys, Element* values, int64_t slot, const Element* key, const Element* value) {
    constexpr int64_t pack = PACK<Element>;
    int64_t block = slot / shape.block_size, place = slot % shape.block_size, size = shape.block_size;
    for (int64_t head = 0; head < shape.num_kv_heads; head++, key += shape.head_dim, value += shape.head_dim) {
        Element* key_block = keys + shape.head(block, head);
        Element* value_block = values + shape.head(block, head) + place / pack * pack * shape.head_dim + place % pack;
        for (int64_t at = 0; at < shape.head_dim; at += pack) std::memcpy(key_block + at * size + place * pack, key + at, 4);
        for (int64_t at = 0; at < shape.head_dim; at++) value_block[at * pack] = value[at];
    }
}

// What the queries of one KV head see: positions [first, context) through the row's block table.
struct Context {
    const int64_t* table;
    int64_t first, context;
};

// What makes scores of the products of queries and keys: a factor, and a cap that they bend below, 0 for none.
struct Scoring {
    float scale, cap;

    ALWAYS_INLINE F32 of(const F32& products) const {
        F32 scores = products * F32::all(scale);
        return cap > 0 ? F32::all(cap) * tanh(scores / F32::all(cap)) : scores;
    }
};

// The softmax of the scores of positions [begin, end) but for the division: weights, and their sum. How far the range
// goes past what is seen changes nothing.
template <class Element>
float softmax(float* scores, Element* weights, int64_t begin, int64_t end, Context seen, const Scoring& scoring) {
    F32 largest = F32::all(-__builtin_inff());
    for (int64_t at = begin; at < end; at += 16) {
        F32 values = select(between(seen.first - at, seen.context - at), scoring.of(load(scores + at - begin)), F32::all(-__builtin_inff()));
        largest = max(largest, values);
        store(scores + at - begin, values);
    }
    F32 top = F32::all(largest_of(largest)), sums = {};
    for (int64_t at = begin; at < end; at += 16) {
        F32 powers = select(between(seen.first - at, seen.context - at), exponential(load(scores + at - begin) - top), F32{});
        sums = sums + powers;
        store(weights + at - begin, powers);
    }
    return total(sums);
}

// Sixteen positions, ahead of their use: blocks lie anywhere, so that only we know which comes next.
template <class Element>
void prefetch_positions(const CacheShape& shape, const Element* from) {
    for (int64_t at = 0; at < 16 * shape.head_dim; at += 64 / sizeof(Element)) __builtin_prefetch(from + at, 0, 3);
}

// `group` queries [group, head_dim] that share a KV head; `out` is laid out like them.
template <class Element>
class Attention {
  public:
    void attend(const CacheShape& shape, int64_t group, const Element* queries, const Element* keys, const Element* values, int64_t kv_head, Context seen,
                const Scoring& scoring, Element* out) {
        shape_ = shape;
        group_ = group;
        begin_ = seen.first / shape_.block_size * shape_.block_size;
        end_ = (seen.context + 15) / 16 * 16;
        grow(scores_, group_ * (end_ - begin_));
        grow(weights_, group_ * (end_ - begin_));
        score(queries, keys, values, kv_head, seen);
        int64_t width = end_ - begin_;
        for (int64_t head = 0; head < group_; head++)
            totals_[head] = softmax(scores_.data() + head * width, weights_.data() + head * width, begin_, end_, seen, scoring);
        sum_values(values, kv_head, seen, out);
    }

  private:
    static constexpr int64_t pack = PACK<Element>;

    void score(const Element* queries, const Element* keys, const Element* values, int64_t kv_head, Context seen) {
        for (int64_t at = begin_; at < end_; at += 16) {
            int64_t block = shape_.head(seen.table[at / shape_.block_size], kv_head);
            const Element* corner = keys + block + at % shape_.block_size * pack;
            prefetch_positions(shape_, values + block + at % shape_.block_size * shape_.head_dim);
            if (at + shape_.block_size < end_)
                prefetch_positions(shape_, keys + shape_.head(seen.table[at / shape_.block_size + 1], kv_head) + at % shape_.block_size * shape_.head_dim);
            int64_t head = 0;
            for (; head + 3 <= group_; head += 3) score_heads<3>(queries, corner, head, at);
            for (; head < group_; head++) score_heads<1>(queries, corner, head, at);
        }
    }

    template <int count>
    void score_heads(const Element* queries, const Element* corner, int64_t head, int64_t at) {
        F32 sums[count][2] = {};
        for (int64_t depth = 0; depth < shape_.head_dim; depth += 2 * pack)
            for (int half = 0; half < 2; half++) {
                Packs<Element> keys = load_packs(corner + (depth + half * pack) * shape_.block_size);
                for (int index = 0; index < count; index++) {
                    const Element* query = queries + (head + index) * shape_.head_dim + depth + half * pack;
                    sums[index][half] = dot(sums[index][half], broadcast_pack(query), keys);
                }
            }
        for (int index = 0; index < count; index++) store(scores_.data() + (head + index) * (end_ - begin_) + at - begin_, sums[index][0] + sums[index][1]);
    }

    void sum_values(const Element* values, int64_t kv_head, Context seen, Element* out) {
        int64_t column = 0;
        for (; column + 32 <= shape_.head_dim; column += 32) sum_columns<2>(values, kv_head, seen, column, out);
        if (column < shape_.head_dim) sum_columns<1>(values, kv_head, seen, column, out);
    }

    template <int halves>
    void sum_columns(const Element* values, int64_t kv_head, Context seen, int64_t column, Element* out) {
        int64_t head = 0;
        for (; head + 3 <= group_; head += 3) sum_values_of<3, halves>(head, values, kv_head, seen, column, out);
        for (; head < group_; head++) sum_values_of<1, halves>(head, values, kv_head, seen, column, out);
    }

    // Columns [column, column + 16 halves) of the outputs of `count` heads: values times weights, over packs of positions in
    // order.
    template <int count, int halves>
    void sum_values_of(int64_t head, const Element* values, int64_t kv_head, Context seen, int64_t column, Element* out) {
        F32 sums[count][halves] = {};
        const Element* weights = weights_.data() + head * (end_ - begin_);
        for (int64_t at = begin_; at < end_; at += 16) {
            int64_t block = seen.table[at / shape_.block_size], num_seen = std::min<int64_t>(16, seen.context - at);
            const Element* from = values + shape_.head(block, kv_head) + at % shape_.block_size * shape_.head_dim + column * pack;
            for (int64_t place = 0; place < num_seen; place += pack, from += shape_.head_dim * pack) {
                Packs<Element> seen_values[halves];
                for (int half = 0; half < halves; half++) seen_values[half] = load_seen(from + half * 16 * pack, num_seen - place);
                for (int index = 0; index < count; index++) {
                    Packs<Element> weight = broadcast_pack(weights + index * (end_ - begin_) + at - begin_ + place);
                    for (int half = 0; half < halves; half++) sums[index][half] = dot(sums[index][half], weight, seen_values[half]);
                }
            }
        }
        for (int index = 0; index < count; index++) {
            F32 scale = F32::all(1.0f / totals_[head + index]);
            Element* output = out + (head + index) * shape_.head_dim + column;
            for (int half = 0; half < halves; half++) store(output + half * 16, sums[index][half] * scale);
        }
    }

    // A pack of positions of which `num_seen` are in the context. One past it may be left over from another sequence, even
    // no number at all, and zero times that is none either.
    static ALWAYS_INLINE Packs<Element> load_seen(const Element* from, int64_t num_seen) {
        Packs<Element> packs = load_packs(from);
        if constexpr (pack > 1) return packs & U32::all(num_seen > 1 ? 0xffffffff : 0xffff);
        else return packs;
    }

    CacheShape shape_{};
    int64_t group_ = 0, begin_ = 0, end_ = 0;
    Buffer<float> scores_;
    Buffer<Element> weights_;
    float totals_[64];
};

}  // namespace native::NATIVE_UNIT
