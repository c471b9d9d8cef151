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
constexpr int64_t MAX_IN = 32768;

struct Rows {
    const bf16* data;
    int64_t count, stride;
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

// Int8 as bfloat16, exactly; the outputs' scales come after the sums.
inline void expand_int8(const LinearView& linear, int64_t block, bf16* to) {
    const int8_t* from = static_cast<const int8_t*>(linear.weight) + block * BLOCK * linear.in;
    auto wide = [&](int64_t at) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at))));
    };
    for (int64_t at = 0; at < BLOCK * linear.in; at += 32)
        _mm512_storeu_si512(to + at, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(wide(at + 16), wide(at))));
}

// Level times step plus least, rounded to bfloat16: 16 outputs at a time, of an even input and of the odd one behind it.
inline void expand_int4(const LinearView& linear, int64_t block, bf16* to) {
    const uint8_t* from = static_cast<const uint8_t*>(linear.weight) + block * BLOCK * linear.in / 2;
    const __m512i half = _mm512_set1_epi32(0x8000), low = _mm512_set1_epi32(15);
    for (int64_t group = 0; group < linear.in / 32; group++) {
        int64_t place = (block * (linear.in / 32) + group) * BLOCK;
        __m512 step = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(linear.steps + place)));
        __m512 least = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(linear.leasts + place)));
        for (int64_t pair = 0; pair < 16; pair++, from += BLOCK, to += 2 * BLOCK) {
            __m512i levels = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
            __m512 even = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_and_si512(levels, low)), step, least);
            __m512 odd = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(levels, 4)), step, least);
            __m512i left = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
            __m512i right = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(odd), half), _mm512_set1_epi32(0xffff0000));
            _mm512_storeu_si512(to, _mm512_or_si512(left, right));
        }
    }
}

// `rows` times the blocks [begin, end) of `linear`, on the unit that this machine has. Quantised weights are expanded
// two blocks at a time, once for all rows.
inline void multiply(Rows rows, const LinearView& linear, int64_t begin, int64_t end, Out out, bool has_matrix_unit) {
    alignas(64) static thread_local bf16 expanded[2 * BLOCK * MAX_IN];
    auto* unit = has_matrix_unit ? MatrixUnit::multiply : VectorUnit::multiply;
    if (linear.bits == 16) {
        const bf16* blocks = static_cast<const bf16*>(linear.weight) + begin * BLOCK * linear.in;
        return unit(rows, blocks, end - begin, linear.in, nullptr, out.from(begin * BLOCK));
    }
    for (int64_t block = begin; block < end; block += 2) {
        int64_t width = std::min<int64_t>(2, end - block);
        for (int64_t each = 0; each < width; each++)
            (linear.bits == 8 ? expand_int8 : expand_int4)(linear, block + each, expanded + each * BLOCK * linear.in);
        const float* scales = linear.scales ? linear.scales + block * BLOCK : nullptr;
        unit(rows, expanded, width, linear.in, scales, out.from(block * BLOCK));
    }
}

}  // namespace native
