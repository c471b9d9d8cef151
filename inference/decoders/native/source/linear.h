// Products of rows with packed weights. Each output is one sum over `in` in a fixed order, whatever the number of
// rows, so a row's bits never depend on who else is there.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>

#include <immintrin.h>

#include "units.h"
#include "vectors.h"

namespace native {

constexpr int64_t BLOCK = 16;  // outputs of a packed block
constexpr int64_t MAX_IN = 32768;
constexpr int64_t DEQUANTIZED = 4;  // blocks of four bits that are dequantized at once, as many as a unit works on together

// Rows of bfloat16, or of integers of 15 bits, each row under a scale. Of the latter the high eight bits of
// sixteen rows come first, then their low seven. Strides are in bytes.
struct Rows {
    const void* data;
    int64_t count, stride;
    const float* scales = nullptr;

    const char* row(int64_t index) const {
        int64_t place = scales ? index / 16 * 32 + index % 16 : index;
        return static_cast<const char*>(data) + place * stride;
    }
    const char* low(int64_t index) const { return row(index) + 16 * stride; }
};

// Where products go: as bfloat16, or as float32 where `wide` is set.
struct Out {
    bf16* data;
    float* wide;
    int64_t stride;

    // The same from a column on.
    Out from(int64_t column) const { return {data ? data + column : data, wide ? wide + column : wide, stride}; }

    void put(int64_t row, int64_t column, __m512 values) const {
        if (wide)
            _mm512_storeu_ps(wide + row * stride + column, values);
        else
            store(data + row * stride + column, values);
    }
};

// Sixteen sums of integers, of the high and of the low bits, under the scales of their row and their outputs.
inline __m512 scaled(__m512i high, __m512i low, float row, const float* outputs) {
    __m512 sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(128), _mm512_cvtepi32_ps(low));
    return _mm512_mul_ps(_mm512_mul_ps(sums, _mm512_set1_ps(row)), _mm512_loadu_ps(outputs));
}

// Products of rows with packed blocks of outputs on the matrix unit, 32 rows and two blocks at a time. A tile has 64
// bytes of 16 rows or, packed, of 16 outputs: 32 inputs in bfloat16, 64 in int8. There the upper tile has the high bits
// of 16 rows and the lower one the low.
template <class Number>
class AmxUnit {
    static constexpr bool IS_BF16 = std::is_same_v<Number, bf16>;
    static constexpr int64_t STEP = IS_BF16 ? 32 : 16;  // rows that are worked on together
    static constexpr int64_t AHEAD = 4096;              // bytes of weights on their way from memory

  public:
    static void multiply(const Rows& rows, const Number* blocks, int64_t num_blocks, int64_t in, const float* scales, Out out) {
        // Rows of integers are padded to tiles.
        bool is_full = !IS_BF16 || rows.count >= STEP;
        configure(is_full ? 16 : std::min<int64_t>(16, rows.count), is_full ? 16 : std::clamp<int64_t>(rows.count - 16, 1, 16));
        for (int64_t block = 0; block < num_blocks; block += 2)
            for (int64_t first = 0; first < rows.count; first += STEP) patch(rows, first, blocks, block, num_blocks, in, scales, out);
        _tile_release();
    }

  private:
    // Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights. `low` and `high` rows of the batch are in them.
    static void configure(int64_t low, int64_t high) {
        TileConfig config;
        for (int tile : {0, 1, 4}) config.set(tile, low, 64);
        for (int tile : {2, 3, 5}) config.set(tile, high, 64);
        for (int tile : {6, 7}) config.set(tile, 16, 64);
        config.load();
    }

    // Up to two blocks of outputs of the rows from `first` on. Where fewer are left than tiles have, they begin before.
    static void patch(const Rows& rows, int64_t first, const Number* blocks, int64_t block, int64_t num_blocks, int64_t in, const float* scales, Out out) {
        int64_t bytes = in * sizeof(Number), low = std::min<int64_t>(16, rows.count - first), high = low;
        const char* left = reinterpret_cast<const char*>(blocks) + block * bytes * BLOCK;
        const char* right = block + 1 < num_blocks ? left + bytes * BLOCK : left;
        // The first rows that meet weights bring them from memory, which has to be asked early.
        bool is_first = first == 0;
        if constexpr (IS_BF16) {
            high = std::clamp<int64_t>(rows.count - first - 16, 0, 16);
            if (rows.count >= STEP) {
                first = std::min(first, rows.count - (high ? 32 : 16));
                low = 16;
                high = high ? 16 : 0;
            }
        }
        auto sum = is_first ? (high ? accumulate<true, true> : accumulate<false, true>) : (high ? accumulate<true, false> : accumulate<false, false>);
        sum(rows.row(first), rows.stride, left, right, bytes);
        for (int64_t column = 0; column < 2 && block + column < num_blocks; column++)
            finish(rows, first, low, high, column, block + column, scales, out);
    }

    template <bool has_high, bool is_first>
    static void accumulate(const char* rows, int64_t stride, const char* left, const char* right, int64_t bytes) {
        const char* below = rows + 16 * stride;
        _tile_zero(0);
        _tile_zero(1);
        if (has_high) _tile_zero(2);
        if (has_high) _tile_zero(3);
        for (int64_t at = 0; at < bytes; at += 64) {
            if (is_first) prefetch(left + at * BLOCK + AHEAD);
            if (is_first) prefetch(right + at * BLOCK + AHEAD);
            _tile_loadd(4, rows + at, stride);
            _tile_loadd(6, left + at * BLOCK, 64);
            _tile_loadd(7, right + at * BLOCK, 64);
            if (has_high) _tile_loadd(5, below + at, stride);
            if constexpr (std::is_same_v<Number, bf16>) {
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                if (has_high) _tile_dpbf16ps(2, 5, 6);
                if (has_high) _tile_dpbf16ps(3, 5, 7);
            } else {
                _tile_dpbssd(0, 4, 6);
                _tile_dpbssd(1, 4, 7);
                if (has_high) _tile_dpbssd(2, 5, 6);
                if (has_high) _tile_dpbssd(3, 5, 7);
            }
        }
    }

    static void prefetch(const char* tile) {
        for (int64_t line = 0; line < 1024; line += 64) _mm_prefetch(tile + line, _MM_HINT_T0);
    }

    static void finish(const Rows& rows, int64_t first, int64_t low, int64_t high, int64_t column, int64_t block, const float* scales, Out out) {
        alignas(64) float sums[32][16];
        // Tiles go by number, and a number has to be known when this is compiled.
        if (column == 0) _tile_stored(0, sums, 64);
        if (column == 1) _tile_stored(1, sums, 64);
        if (high && column == 0) _tile_stored(2, sums[16], 64);
        if (high && column == 1) _tile_stored(3, sums[16], 64);
        for (int64_t row = 0; row < (IS_BF16 ? low + high : low); row++) {
            __m512 values = _mm512_load_ps(sums[row]);
            if constexpr (!IS_BF16)
                values = scaled(_mm512_castps_si512(values), _mm512_load_si512(sums[16 + row]), rows.scales[first + row], scales + block * BLOCK);
            out.put(first + row, block * BLOCK, values);
        }
    }
};

// The same on the vector unit, for processors with AVX512-BF16 and VNNI and no matrix unit.
template <class Number>
class Avx512Unit {
    static constexpr bool IS_BF16 = std::is_same_v<Number, bf16>;

  public:
    static void multiply(const Rows& rows, const Number* blocks, int64_t num_blocks, int64_t in, const float* scales, Out out) {
        int64_t block = 0;
        for (; block + 4 <= num_blocks; block += 4) stripe<4>(rows, blocks, block, in, scales, out);
        for (; block < num_blocks; block++) stripe<1>(rows, blocks, block, in, scales, out);
    }

  private:
    template <int width>
    static void stripe(const Rows& rows, const Number* blocks, int64_t block, int64_t in, const float* scales, Out out) {
        const Number* weights = blocks + block * in * BLOCK;
        Out there = out.from(block * BLOCK);
        const float* outputs = scales ? scales + block * BLOCK : nullptr;
        int64_t row = 0;
        if constexpr (IS_BF16) {
            for (; row + 6 <= rows.count; row += 6) bf16_patch<6, width>(rows, row, weights, in, there);
            for (; row + 2 <= rows.count; row += 2) bf16_patch<2, width>(rows, row, weights, in, there);
            for (; row < rows.count; row++) bf16_patch<1, width>(rows, row, weights, in, there);
        } else {
            for (; row + 2 <= rows.count; row += 2) int8_patch<2, width>(rows, row, weights, in, outputs, there);
            for (; row < rows.count; row++) int8_patch<1, width>(rows, row, weights, in, outputs, there);
        }
    }

    template <int height, int width>
    static void bf16_patch(const Rows& rows, int64_t first, const Number* weights, int64_t in, Out out) {
        __m512 sums[height][width] = {};
        for (int64_t at = 0; at < in; at += 2) {
            __m512bh columns[width];
            for (int column = 0; column < width; column++) columns[column] = load_pairs(weights + (column * in + at) * BLOCK);
            for (int row = 0; row < height; row++) {
                __m512bh inputs = broadcast_pair(rows.row(first + row) + at * 2);
                for (int column = 0; column < width; column++) sums[row][column] = _mm512_dpbf16_ps(sums[row][column], inputs, columns[column]);
            }
        }
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) out.put(first + row, column * BLOCK, sums[row][column]);
    }

    template <int height, int width>
    static void int8_patch(const Rows& rows, int64_t first, const Number* weights, int64_t in, const float* outputs, Out out) {
        __m512i high[height][width] = {}, low[height][width] = {}, offset[width] = {};
        for (int64_t at = 0; at < in; at += 4) {
            __m512i columns[width];
            for (int column = 0; column < width; column++) {
                columns[column] = _mm512_loadu_si512(weights + (column * in + at) * BLOCK);
                offset[column] = _mm512_dpbusd_epi32(offset[column], _mm512_set1_epi8(-128), columns[column]);
            }
            for (int row = 0; row < height; row++) {
                // This product takes its first factor without a sign: 128 is added here, and 128 times the weights taken off below.
                __m512i upper = _mm512_xor_si512(broadcast(rows.row(first + row) + at), _mm512_set1_epi8(-128));
                __m512i lower = broadcast(rows.low(first + row) + at);
                for (int column = 0; column < width; column++) {
                    high[row][column] = _mm512_dpbusd_epi32(high[row][column], upper, columns[column]);
                    low[row][column] = _mm512_dpbusd_epi32(low[row][column], lower, columns[column]);
                }
            }
        }
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) {
                __m512i upper = _mm512_sub_epi32(high[row][column], offset[column]);
                out.put(first + row, column * BLOCK, scaled(upper, low[row][column], rows.scales[first + row], outputs + column * BLOCK));
            }
    }

    static __m512i broadcast(const char* from) { return reinterpret_cast<__m512i>(broadcast_pair(from)); }
};

// Products of rows and weights that are widened from bfloat16 to float32. Only few rows at a time are, so that they stay
// in the nearest cache.
class Avx512F32Unit {
    static constexpr int HEIGHT = 12;               // rows that are worked on together
    static constexpr int64_t STRIDE = MAX_IN + 48;  // known when this is compiled, and no two rows in one set of the cache
    static constexpr int64_t AHEAD = 4096;          // bytes of weights on their way from memory

  public:
    static void multiply(const Rows& rows, const bf16* blocks, int64_t num_blocks, int64_t in, Out out) {
        int64_t row = 0;
        for (; row + HEIGHT <= rows.count; row += HEIGHT) strip<HEIGHT, 2>(rows, row, blocks, num_blocks, in, out);
        for (; row + 8 <= rows.count; row += 8) strip<8, 2>(rows, row, blocks, num_blocks, in, out);
        for (; row + 4 <= rows.count; row += 4) strip<4, 4>(rows, row, blocks, num_blocks, in, out);
        for (; row + 2 <= rows.count; row += 2) strip<2, 4>(rows, row, blocks, num_blocks, in, out);
        for (; row < rows.count; row++) strip<1, 4>(rows, row, blocks, num_blocks, in, out);
    }

  private:
    template <int height, int width>
    static void strip(const Rows& rows, int64_t first, const bf16* blocks, int64_t num_blocks, int64_t in, Out out) {
        alignas(64) static thread_local float scratch[HEIGHT * STRIDE];
        float* widened = scratch;
        for (int64_t row = 0; row < height; row++)
            for (int64_t at = 0; at < in; at += 16) store(widened + row * STRIDE + at, load(reinterpret_cast<const bf16*>(rows.row(first + row)) + at));
        int64_t block = 0;
        for (; block + width <= num_blocks; block += width) patch<height, width>(widened, first, blocks + block * in * BLOCK, in, out.from(block * BLOCK));
        if (width > 2)
            for (; block + 2 <= num_blocks; block += 2) patch<height, 2>(widened, first, blocks + block * in * BLOCK, in, out.from(block * BLOCK));
        for (; block < num_blocks; block++) patch<height, 1>(widened, first, blocks + block * in * BLOCK, in, out.from(block * BLOCK));
    }

    template <int height, int width>
    static void patch(const float* rows, int64_t first, const bf16* weights, int64_t in, Out out) {
        __m512 sums[height][width] = {};
        for (int64_t at = 0; at < in; at += 2) {
            __m512 even[width], odd[width];
            for (int column = 0; column < width; column++) {
                const bf16* from = weights + (column * in + at) * BLOCK;
                _mm_prefetch(reinterpret_cast<const char*>(from) + AHEAD, _MM_HINT_T0);
                __m512i pairs = _mm512_loadu_si512(from);
                even[column] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                odd[column] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
            }
            for (int row = 0; row < height; row++)
                for (int column = 0; column < width; column++)
                    sums[row][column] = _mm512_fmadd_ps(_mm512_set1_ps(rows[row * STRIDE + at]), even[column], sums[row][column]);
            for (int row = 0; row < height; row++)
                for (int column = 0; column < width; column++)
                    sums[row][column] = _mm512_fmadd_ps(_mm512_set1_ps(rows[row * STRIDE + at + 1]), odd[column], sums[row][column]);
        }
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) out.put(first + row, column * BLOCK, sums[row][column]);
    }
};

template <class Number>
void multiply(const Rows& rows, const Number* blocks, int64_t num_blocks, int64_t in, const float* scales, Out out, Unit unit) {
    if (unit == AMX) return AmxUnit<Number>::multiply(rows, blocks, num_blocks, in, scales, out);
    if constexpr (std::is_same_v<Number, bf16>)
        if (unit == AVX512_F32) return Avx512F32Unit::multiply(rows, blocks, num_blocks, in, out);
    Avx512Unit<Number>::multiply(rows, blocks, num_blocks, in, scales, out);
}

// One row as integers of 15 bits under its own scale, which is returned; 16383 stands for its largest number. An
// eighth bit's worth of rounding would be too much: a row has a few numbers that are far larger than the rest.
inline float quantize(const bf16* row, int8_t* high, int8_t* low, int64_t width) {
    __m512 largest = _mm512_set1_ps(1e-30f);
    for (int64_t at = 0; at < width; at += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(load(row + at)));
    float top = _mm512_reduce_max_ps(largest);
    __m512 inverse = _mm512_set1_ps(16383 / top);
    for (int64_t at = 0; at < width; at += 16) {
        __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(row + at), inverse));
        __m512i lower = _mm512_and_si512(rounded, _mm512_set1_epi32(127));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high + at), _mm512_cvtepi32_epi8(_mm512_srai_epi32(rounded, 7)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(low + at), _mm512_cvtepi32_epi8(lower));
    }
    return top / 16383;
}

// Level times scale plus minimum, rounded to bfloat16: 16 outputs at a time, of an even input and of the odd one behind it.
inline void dequantize_int4(const LinearView& linear, int64_t block, bf16* to) {
    const uint8_t* from = static_cast<const uint8_t*>(linear.weight) + block * BLOCK * linear.in / 2;
    const __m512i half = _mm512_set1_epi32(0x8000), low = _mm512_set1_epi32(15);
    for (int64_t group = 0; group < linear.in / 32; group++) {
        int64_t place = (block * (linear.in / 32) + group) * BLOCK;
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(linear.group_scales + place)));
        __m512 min = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(linear.group_mins + place)));
        for (int64_t pair = 0; pair < 16; pair++, from += BLOCK, to += 2 * BLOCK) {
            __m512i levels = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
            __m512 even = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_and_si512(levels, low)), scale, min);
            __m512 odd = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(levels, 4)), scale, min);
            __m512i left = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
            __m512i right = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(odd), half), _mm512_set1_epi32(0xffff0000));
            _mm512_storeu_si512(to, _mm512_or_si512(left, right));
        }
    }
}

// `rows` times the blocks [begin, end) of `linear`. Four bits are dequantized a few blocks at a time, once for all rows.
inline void multiply(const Rows& rows, const LinearView& linear, int64_t begin, int64_t end, Out out, Unit unit) {
    if (linear.bits != 4) {
        out = out.from(begin * BLOCK);
        int64_t first = begin * BLOCK * linear.in;
        if (linear.bits == 8)
            multiply(rows, static_cast<const int8_t*>(linear.weight) + first, end - begin, linear.in, linear.scales + begin * BLOCK, out, unit);
        else
            multiply(rows, static_cast<const bf16*>(linear.weight) + first, end - begin, linear.in, nullptr, out, unit);
        return;
    }
    alignas(64) static thread_local bf16 dequantized[DEQUANTIZED * BLOCK * MAX_IN];
    for (int64_t block = begin; block < end; block += DEQUANTIZED) {
        int64_t width = std::min(DEQUANTIZED, end - block);
        for (int64_t index = 0; index < width; index++) dequantize_int4(linear, block + index, dequantized + index * BLOCK * linear.in);
        multiply(rows, dequantized, width, linear.in, nullptr, out.from(block * BLOCK), unit);
    }
}

}  // namespace native
