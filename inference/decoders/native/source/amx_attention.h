// Attention on the matrix unit: up to sixteen rows of one sequence that share a KV head, or the heads of one row. Sums run
// over positions in order, sixteen at a time from position 0 of a block, each row's in a row of a tile of its own, so a
// row's bits are the same alone and beside others.
#pragma once
#include "amx_linear.h"
#include "attention.h"

namespace native::NATIVE_UNIT {

// Rows [row, row + count) of a pass: tokens of one sequence, at positions from `position` on. `window` 0: they see all.
struct Span {
    int64_t row, count, position;
    const int64_t* table;
    int64_t window;

    Context seen_by(int64_t index) const {
        int64_t context = position + index + 1;
        return {table, window ? std::max<int64_t>(0, context - window) : 0, context};
    }
    Span only(int64_t index) const { return {row + index, 1, position + index, table, window}; }
};

// Queries, or outputs: [rows, heads, head_dim] with so many numbers from a row to the next.
template <class Number>
struct Heads {
    Number* data;
    int64_t stride;
};

template <class Element>
class AmxAttention;

#if defined(__AMX_TILE__)

template <>
class AmxAttention<bf16> {
  public:
    // The `group` heads of every row of `span`, from the first row's first head in `queries` on.
    void attend(const CacheShape& shape, const Span& span, int64_t group, Heads<const bf16> queries, const bf16* keys, const bf16* values,
                int64_t kv_head, const Scoring& scoring, Heads<bf16> out) {
        shape_ = shape;
        scoring_ = scoring;
        span_ = span;
        keys_ = keys + shape.head(0, kv_head);
        values_ = values + shape.head(0, kv_head);
        begin_ = span.seen_by(0).first / 16 * 16;
        end_ = (span.seen_by(span.count - 1).context + 15) / 16 * 16;
        if (span.count > 1 && !are_edges_finite()) {
            for (int64_t index = 0; index < span.count; index++)
                attend(shape, span.only(index), group, {queries.data + index * queries.stride, queries.stride}, keys, values, kv_head,
                       scoring, {out.data + index * out.stride, out.stride});
            return;
        }
        grow(scores_, 16 * (end_ - begin_));
        grow(weights_, 16 * (end_ - begin_));
        // Of one row the heads are worked on together, of several the rows, a head at a time.
        bool is_alone = span.count == 1;
        int64_t dim = shape.head_dim, together = is_alone ? 16 : 1;
        for (int64_t head = 0; head < group; head += together) {
            int64_t height = is_alone ? std::min(together, group - head) : span.count;
            strip(height, {queries.data + head * dim, is_alone ? dim : queries.stride}, {out.data + head * dim, is_alone ? dim : out.stride});
        }
        _tile_release();
    }

  private:
    // Tiles 0 to 3 hold sums, 4 queries, 5 weights, 6 keys and 7 values.
    static void configure(int64_t height) {
        TileConfig config;
        for (int tile = 0; tile < 5; tile++) config.set(tile, height, 64);
        config.set(5, height, 32);
        config.set(6, 16, 64);
        config.set(7, 8, 64);
        config.load();
    }

    void strip(int64_t height, Heads<const bf16> queries, Heads<bf16> out) {
        configure(height);
        score(queries);
        float totals[16];
        int64_t width = end_ - begin_;
        for (int64_t index = 0; index < height; index++)
            totals[index] = softmax(scores_.data() + index * width, weights_.data() + index * width, begin_, end_, seen_in_strip(index), scoring_);
        TileConfig::compiler_barrier();
        for (int64_t column = 0; column < shape_.head_dim; column += 64) sum_values(column, height, totals, out);
    }

    Context seen_in_strip(int64_t index) const { return span_.seen_by(span_.count > 1 ? index : 0); }

    void score(Heads<const bf16> queries) {
        int64_t width = end_ - begin_, size = shape_.block_size;
        for (int64_t at = begin_; at < end_; at += 16) {
            const bf16* corner = keys_ + block_of(at) + at % size * 2;
            prefetch_positions(shape_, group_of(at));
            if (at + size < end_) prefetch_positions(shape_, keys_ + block_of(at + size) + at % size * shape_.head_dim);
            _tile_zero(0);
            for (int64_t depth = 0; depth < shape_.head_dim; depth += 32) {
                _tile_loadd(4, queries.data + depth, queries.stride * sizeof(bf16));
                _tile_loadd(6, corner + depth * size, size * 2 * sizeof(bf16));
                _tile_dpbf16ps(0, 4, 6);
            }
            _tile_stored(0, scores_.data() + at - begin_, width * sizeof(float));
        }
    }

    // Columns [column, column + 64) of the outputs, or as many as there are: 32 or 64.
    void sum_values(int64_t column, int64_t height, const float* totals, Heads<bf16> out) {
        bool is_wide = column + 64 <= shape_.head_dim;
        int64_t width = end_ - begin_, stride = shape_.head_dim * 2 * sizeof(bf16);
        _tile_zero(0);
        _tile_zero(1);
        if (is_wide) _tile_zero(2);
        if (is_wide) _tile_zero(3);
        for (int64_t at = begin_; at < end_; at += 16) {
            const bf16* corner = (span_.count == 1 && is_edge(at) ? masked_group_of(at) : group_of(at)) + column * 2;
            _tile_loadd(5, weights_.data() + at - begin_, width * sizeof(bf16));
            _tile_loadd(7, corner, stride);
            _tile_dpbf16ps(0, 5, 7);
            _tile_loadd(7, corner + 32, stride);
            _tile_dpbf16ps(1, 5, 7);
            if (!is_wide) continue;
            _tile_loadd(7, corner + 64, stride);
            _tile_dpbf16ps(2, 5, 7);
            _tile_loadd(7, corner + 96, stride);
            _tile_dpbf16ps(3, 5, 7);
        }
        alignas(64) float sums[4][16][16];
        _tile_stored(0, sums[0], 64);
        _tile_stored(1, sums[1], 64);
        if (is_wide) _tile_stored(2, sums[2], 64);
        if (is_wide) _tile_stored(3, sums[3], 64);
        for (int64_t index = 0; index < height; index++)
            for (int64_t tile = 0; tile < (is_wide ? 4 : 2); tile++)
                store(out.data + index * out.stride + column + tile * 16, load(sums[tile][index]) * F32::all(1.0f / totals[index]));
    }

    int64_t block_of(int64_t at) const { return shape_.head(span_.table[at / shape_.block_size], 0); }

    // The values of sixteen positions, which lie together: [8][head_dim][2].
    const bf16* group_of(int64_t at) const { return values_ + block_of(at) + at % shape_.block_size * shape_.head_dim; }

    // Whether some row does not see all sixteen positions from `at` on. What lies there may be left over from another
    // sequence or come later in this one, even be no number at all, and zero times that is none either.
    bool is_edge(int64_t at) const { return at < span_.seen_by(span_.count - 1).first || at + 16 > span_.position + 1; }

    bool are_edges_finite() const {
        __mmask32 odd = 0;
        for (int64_t at = begin_; at < end_; at += 16) {
            const bf16* group = group_of(at);
            for (int64_t place = 0; is_edge(at) && place < 16 * shape_.head_dim; place += 32) {
                __m512i exponents = _mm512_and_si512(_mm512_loadu_si512(group + place), _mm512_set1_epi16(0x7f80));
                odd |= _mm512_cmpeq_epi16_mask(exponents, _mm512_set1_epi16(0x7f80));
            }
        }
        return !odd;
    }

    // A copy of the values of sixteen positions with zeros for what a row that is alone does not see.
    const bf16* masked_group_of(int64_t at) {
        grow(masked_, 16 * shape_.head_dim);
        const bf16* group = group_of(at);
        Context seen = span_.seen_by(0);
        for (int64_t pair = 0; pair < 8; pair++) {
            auto is_seen = [&](int64_t position) { return position >= seen.first && position < seen.context; };
            U32 kept = U32::all((is_seen(at + 2 * pair) ? 0xffff : 0) | (is_seen(at + 2 * pair + 1) ? 0xffff0000 : 0));
            for (int64_t place = pair * shape_.head_dim * 2; place < (pair + 1) * shape_.head_dim * 2; place += 32)
                (load_packs(group + place) & kept).put(masked_.data() + place);
        }
        TileConfig::compiler_barrier();
        return masked_.data();
    }

    CacheShape shape_{};
    Span span_{};
    Scoring scoring_{};
    const bf16 *keys_ = nullptr, *values_ = nullptr;
    int64_t begin_ = 0, end_ = 0;
    Buffer<float> scores_;
    Buffer<bf16> weights_, masked_;
};

#endif

}  // namespace native::NATIVE_UNIT
