// The matrix unit: its tiles, and products of rows with packed weights on it.
#pragma once
#include "rows.h"

namespace native::NATIVE_UNIT {

#if defined(__AMX_TILE__)
constexpr bool HAS_AMX = true;
#else
constexpr bool HAS_AMX = false;
#endif

template <class Element>
struct AmxLinear;

#if defined(__AMX_TILE__)

// How many rows of how many bytes each of the eight tiles has.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t count, int64_t width) {
        rows[tile] = static_cast<uint8_t>(count);
        bytes[tile] = static_cast<uint16_t>(width);
    }
    void load() const {
        compiler_barrier();
        _tile_loadconfig(this);
    }
    // The compiler is not told what tiles are loaded from: whatever was written before has to be in memory now.
    static void compiler_barrier() { asm volatile("" ::: "memory"); }
};

// 32 rows and two blocks at a time. A tile has 32 inputs of 16 rows or, packed, of 16 outputs.
template <>
struct AmxLinear<bf16> {
    static void multiply(const Rows<bf16>& rows, const bf16* blocks, int64_t num_blocks, const Out<bf16>& out) {
        bool is_full = rows.count >= STEP;
        configure(is_full ? 16 : std::min<int64_t>(16, rows.count), is_full ? 16 : std::clamp<int64_t>(rows.count - 16, 1, 16));
        for (int64_t block = 0; block < num_blocks; block += 2)
            for (int64_t first = 0; first < rows.count; first += STEP) patch(rows, first, blocks, block, num_blocks, out);
        _tile_release();
    }

  private:
    static constexpr int64_t STEP = 32;     // rows that are worked on together
    static constexpr int64_t AHEAD = 4096;  // bytes of weights on their way from memory

    // Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights. `low` and `high` rows of the batch are in them.
    static void configure(int64_t low, int64_t high) {
        TileConfig config;
        for (int tile : {0, 1, 4}) config.set(tile, low, 64);
        for (int tile : {2, 3, 5}) config.set(tile, high, 64);
        for (int tile : {6, 7}) config.set(tile, 16, 64);
        config.load();
    }

    // Up to two blocks of outputs of the rows from `first` on. Where fewer are left than tiles have, they begin before.
    static void patch(const Rows<bf16>& rows, int64_t first, const bf16* blocks, int64_t block, int64_t num_blocks, const Out<bf16>& out) {
        int64_t low = std::min<int64_t>(16, rows.count - first), high = std::clamp<int64_t>(rows.count - first - 16, 0, 16);
        const bf16* left = blocks + block * rows.in * BLOCK;
        const bf16* right = block + 1 < num_blocks ? left + rows.in * BLOCK : left;
        // The first rows that meet weights bring them from memory, which has to be asked early.
        bool is_first = first == 0;
        if (rows.count >= STEP) {
            first = std::min(first, rows.count - (high ? 32 : 16));
            low = 16;
            high = high ? 16 : 0;
        }
        auto sum = is_first ? (high ? accumulate<true, true> : accumulate<false, true>) : (high ? accumulate<true, false> : accumulate<false, false>);
        sum(rows.data + first * rows.in, rows.in, left, right);
        for (int64_t column = 0; column < 2 && block + column < num_blocks; column++) finish(first, low, high, column, block + column, out);
    }

    template <bool has_high, bool is_first>
    static void accumulate(const bf16* rows, int64_t in, const bf16* left, const bf16* right) {
        int64_t stride = in * sizeof(bf16);
        _tile_zero(0);
        _tile_zero(1);
        if (has_high) _tile_zero(2);
        if (has_high) _tile_zero(3);
        for (int64_t at = 0; at < in; at += 32) {
            if (is_first) prefetch(left + at * BLOCK);
            if (is_first) prefetch(right + at * BLOCK);
            _tile_loadd(4, rows + at, stride);
            _tile_loadd(6, left + at * BLOCK, 64);
            _tile_loadd(7, right + at * BLOCK, 64);
            if (has_high) _tile_loadd(5, rows + 16 * in + at, stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (has_high) _tile_dpbf16ps(2, 5, 6);
            if (has_high) _tile_dpbf16ps(3, 5, 7);
        }
    }

    static void prefetch(const bf16* tile) {
        for (int64_t line = 0; line < 1024; line += 64) _mm_prefetch(reinterpret_cast<const char*>(tile) + AHEAD + line, _MM_HINT_T0);
    }

    static void finish(int64_t first, int64_t low, int64_t high, int64_t column, int64_t block, const Out<bf16>& out) {
        alignas(64) float sums[32][16];
        // Tiles go by number, and a number has to be known when this is compiled.
        if (column == 0) _tile_stored(0, sums, 64);
        if (column == 1) _tile_stored(1, sums, 64);
        if (high && column == 0) _tile_stored(2, sums[16], 64);
        if (high && column == 1) _tile_stored(3, sums[16], 64);
        for (int64_t row = 0; row < low + high; row++) out.put(first + row, block * BLOCK, load(sums[row]));
    }
};

#endif

}  // namespace native::NATIVE_UNIT
