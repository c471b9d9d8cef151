// Products of rows with packed weights. Each output is one sum over `in` in a fixed order, whatever the number of
// rows, so a row's bits never depend on who else is there.
#pragma once
#include <algorithm>
#include <cstring>

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vectors.h"

namespace native {

constexpr int64_t BLOCK = 16;  // outputs of a packed block
constexpr int64_t DEPTH = 32;  // inputs of a matrix tile

struct Rows {
    const bf16* data;
    int64_t count, stride;
};

// Where products go: as bfloat16, or as float32 where `wide` is set.
struct Out {
    bf16* data;
    float* wide;
    int64_t stride;

    void put(int64_t row, int64_t column, __m512 values) const {
        if (wide)
            _mm512_storeu_ps(wide + row * stride + column, values);
        else
            store(data + row * stride + column, values);
    }
};

// The matrix unit wants the system's leave, once a process.
inline bool ask_for_matrix_unit() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILE_DATA = 18;
    return __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILE_DATA) == 0;
}

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    // Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights. `low` and `high` rows of the batch are in them.
    TileConfig(int64_t low, int64_t high) {
        for (int tile = 0; tile < 8; tile++) bytes[tile] = 64;
        rows[0] = rows[1] = rows[4] = static_cast<uint8_t>(low);
        rows[2] = rows[3] = rows[5] = static_cast<uint8_t>(std::max<int64_t>(high, 1));
        rows[6] = rows[7] = 16;
    }
};

// The products of up to 32 rows with two blocks of weights, on the matrix unit.
class MatrixUnit {
  public:
    static void multiply(Rows rows, const bf16* blocks, int64_t num_blocks, int64_t in, const float* scales, Out out) {
        for (int64_t first = 0; first < rows.count; first += 32) {
            int64_t low = std::min<int64_t>(16, rows.count - first);
            int64_t high = std::clamp<int64_t>(rows.count - first - 16, 0, 16);
            TileConfig config(low, high);
            _tile_loadconfig(&config);
            for (int64_t block = 0; block < num_blocks; block += 2) {
                const bf16* weights = blocks + block * in * BLOCK;
                const bf16* data = rows.data + first * rows.stride;
                bool is_pair = block + 1 < num_blocks;
                if (high)
                    accumulate<true>(data, rows.stride, weights, is_pair, in);
                else
                    accumulate<false>(data, rows.stride, weights, is_pair, in);
                finish(first, low, high, block, is_pair, scales, out);
            }
        }
        _tile_release();
    }

  private:
    template <bool has_high>
    static void accumulate(const bf16* rows, int64_t stride, const bf16* left, bool is_pair, int64_t in) {
        const bf16* right = is_pair ? left + in * BLOCK : left;
        const bf16* below = rows + 16 * stride;
        _tile_zero(0);
        _tile_zero(1);
        if (has_high) _tile_zero(2);
        if (has_high) _tile_zero(3);
        for (int64_t at = 0; at < in; at += DEPTH) {
            _tile_loadd(4, rows + at, stride * 2);
            _tile_loadd(6, left + at * BLOCK, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, right + at * BLOCK, 64);
            _tile_dpbf16ps(1, 4, 7);
            if (!has_high) continue;
            _tile_loadd(5, below + at, stride * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

    static void finish(int64_t first, int64_t low, int64_t high, int64_t block, bool is_pair, const float* scales, Out out) {
        alignas(64) float sums[4][16][16];
        _tile_stored(0, sums[0], 64);
        if (is_pair) _tile_stored(1, sums[1], 64);
        if (high) _tile_stored(2, sums[2], 64);
        if (high && is_pair) _tile_stored(3, sums[3], 64);
        for (int64_t column = 0; column < 1 + is_pair; column++) {
            __m512 scale = scales ? _mm512_loadu_ps(scales + (block + column) * BLOCK) : _mm512_set1_ps(1.0f);
            for (int64_t row = 0; row < low + high; row++) {
                __m512 values = _mm512_load_ps(sums[row / 16 * 2 + column][row % 16]);
                out.put(first + row, (block + column) * BLOCK, _mm512_mul_ps(values, scale));
            }
        }
    }
};

// The same on plain vectors, for processors with AVX512-BF16 and no matrix unit.
class VectorUnit {
  public:
    static void multiply(Rows rows, const bf16* blocks, int64_t num_blocks, int64_t in, const float* scales, Out out) {
        for (int64_t block = 0; block < num_blocks; block += 4) {
            int64_t width = std::min<int64_t>(4, num_blocks - block);
            if (width == 4)
                stripe<4>(rows, blocks, block, in, scales, out);
            else
                for (int64_t each = 0; each < width; each++) stripe<1>(rows, blocks, block + each, in, scales, out);
        }
    }

  private:
    template <int width>
    static void stripe(Rows rows, const bf16* blocks, int64_t block, int64_t in, const float* scales, Out out) {
        int64_t row = 0;
        for (; row + 6 <= rows.count; row += 6) patch<6, width>(rows, row, blocks, block, in, scales, out);
        for (; row + 2 <= rows.count; row += 2) patch<2, width>(rows, row, blocks, block, in, scales, out);
        for (; row < rows.count; row++) patch<1, width>(rows, row, blocks, block, in, scales, out);
    }

    template <int height, int width>
    static void patch(Rows rows, int64_t row, const bf16* blocks, int64_t block, int64_t in, const float* scales, Out out) {
        __m512 sums[height][width] = {};
        const bf16* data = rows.data + row * rows.stride;
        const bf16* weights = blocks + block * in * BLOCK;
        for (int64_t at = 0; at < in; at += 2) {
            __m512bh columns[width];
            for (int each = 0; each < width; each++) columns[each] = load_pairs(weights + (each * in + at) * BLOCK);
            for (int each = 0; each < height; each++) {
                __m512bh pair = spread_pair(data + each * rows.stride + at);
                for (int column = 0; column < width; column++)
                    sums[each][column] = _mm512_dpbf16_ps(sums[each][column], pair, columns[column]);
            }
        }
        for (int column = 0; column < width; column++) {
            int64_t place = (block + column) * BLOCK;
            __m512 scale = scales ? _mm512_loadu_ps(scales + place) : _mm512_set1_ps(1.0f);
            for (int each = 0; each < height; each++) out.put(row + each, place, _mm512_mul_ps(sums[each][column], scale));
        }
    }
};

// `count` int8 as bfloat16, exactly.
inline void expand(const int8_t* from, bf16* to, int64_t count) {
    for (int64_t at = 0; at < count; at += 32) {
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at))));
        __m512 high =
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at + 16))));
        _mm512_storeu_si512(to + at, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
}

// `rows` times the blocks [begin, end) of `linear`, on the unit that this machine has.
inline void multiply(Rows rows, const LinearView& linear, int64_t begin, int64_t end, Out out, bool has_matrix_unit) {
    alignas(64) static thread_local bf16 expanded[2 * BLOCK * 16384];
    auto* unit = has_matrix_unit ? MatrixUnit::multiply : VectorUnit::multiply;
    Out there = out;
    if (out.wide) there.wide += begin * BLOCK;
    if (out.data) there.data += begin * BLOCK;
    if (!linear.scales) {
        unit(rows, static_cast<const bf16*>(linear.weight) + begin * BLOCK * linear.in, end - begin, linear.in, nullptr, there);
        return;
    }
    for (int64_t block = begin; block < end; block += 2) {
        int64_t width = std::min<int64_t>(2, end - block), size = BLOCK * linear.in;
        expand(static_cast<const int8_t*>(linear.weight) + block * size, expanded, width * size);
        Out part = out;
        if (out.wide) part.wide += block * BLOCK;
        if (out.data) part.data += block * BLOCK;
        unit(rows, expanded, width, linear.in, linear.scales + block * BLOCK, part);
    }
}

// Weights [out, in] in the order in which they are read: [out / 16][in / 2][16][2].
template <class Number>
void pack(const Number* weight, Number* packed, int64_t out, int64_t in) {
    for (int64_t row = 0; row < out; row++)
        for (int64_t column = 0; column < in; column++)
            packed[(row / BLOCK * (in / 2) + column / 2) * BLOCK * 2 + row % BLOCK * 2 + column % 2] = weight[row * in + column];
}

}  // namespace native
