// Products of rows with packed weights. Each output is one sum over `in` in a fixed order, whatever the number of rows,
// so a row's bits never depend on who else is there.
#pragma once
#include "amx_linear.h"
#include "rows.h"

namespace native::NATIVE_UNIT {

constexpr int64_t STRIPE = 4;  // blocks that stay in the cache while all rows pass by

// Weights are read once from memory: a line of each block asks for that of the next stripe.
ALWAYS_INLINE void prefetch_next(const void* line, int64_t bytes_of_block) {
    __builtin_prefetch(static_cast<const char*>(line) + STRIPE * bytes_of_block, 0, 2);
}

// Rows and weights of one type, whose packs this unit multiplies as they lie. Weights [out / 16][in / pack][16][pack].
template <class Element>
struct PackLinear {
    static void multiply(const Rows<Element>& rows, const Element* weights, int64_t num_blocks, const Out<Element>& out) {
        for (int64_t first = 0; first < num_blocks; first += STRIPE)
            by_height<std::min(SUMS, 6), 2, 1>(rows.count, [&]<int height>(int64_t row) {
                by_width<SUMS, height>(std::min(STRIPE, num_blocks - first), [&]<int width>(int64_t block) {
                    patch<height, width>(rows, row, weights, first + block, out);
                });
            });
    }

  private:
    template <int height, int width>
    static void patch(const Rows<Element>& rows, int64_t first, const Element* weights, int64_t block, const Out<Element>& out) {
        F32 sums[height][width] = {};
        const Element* data = rows.data + first * rows.in;
        weights += block * BLOCK * rows.in;
        for (int64_t at = 0; at < rows.in; at += PACK<Element>) {
            Packs<Element> columns[width];
            for (int column = 0; column < width; column++) {
                const Element* line = weights + (column * rows.in + at) * BLOCK;
                columns[column] = load_packs(line);
                // Many rows take long enough for the processor to fetch ahead by itself, and have no register to spare.
                if constexpr (height <= 2) prefetch_next(line, rows.in * BLOCK * sizeof(Element));
            }
            for (int row = 0; row < height; row++) {
                Packs<Element> inputs = broadcast_pack(data + row * rows.in + at);
                for (int column = 0; column < width; column++) sums[row][column] = dot(sums[row][column], inputs, columns[column]);
            }
        }
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) out.put(first + row, (block + column) * BLOCK, sums[row][column]);
    }
};

// Rows and weights of bfloat16 on a unit that multiplies float32. Only few rows at a time are widened, so that they stay
// in the nearest cache.
struct WideLinear {
    static void multiply(const Rows<bf16>& rows, const bf16* weights, int64_t num_blocks, const Out<bf16>& out) {
        by_height<std::min(SUMS, 12), std::min(SUMS, 6), 2, 1>(rows.count, [&]<int height>(int64_t row) {
            const float* widened = widen_rows<height>(rows, row);
            by_width<SUMS, height>(num_blocks, [&]<int width>(int64_t block) {
                patch<height, width>(widened, row, weights + block * BLOCK * rows.in, rows.in, out.from(block * BLOCK));
            });
        });
    }

  private:
    static constexpr int64_t STRIDE = MAX_IN + 48;  // known when this is compiled, and no two rows in one set of the cache

    template <int height>
    static const float* widen_rows(const Rows<bf16>& rows, int64_t first) {
        static thread_local Buffer<float> scratch;
        grow(scratch, height * STRIDE);
        for (int64_t row = 0; row < height; row++)
            for (int64_t at = 0; at < rows.in; at += 16) store(scratch.data() + row * STRIDE + at, load(rows.data + (first + row) * rows.in + at));
        return scratch.data();
    }

    template <int height, int width>
    static void patch(const float* rows, int64_t first, const bf16* weights, int64_t in, const Out<bf16>& out) {
        F32 sums[height][width] = {};
        for (int64_t at = 0; at < in; at += 2) {
            U32 pairs[width];
            for (int column = 0; column < width; column++) {
                const bf16* line = weights + (column * in + at) * BLOCK;
                pairs[column] = load_packs(line);
                prefetch_next(line, in * BLOCK * sizeof(bf16));
            }
            F32 columns[width];
            for (int column = 0; column < width; column++) columns[column] = evens(pairs[column]);
            add<height, width>(rows + at, columns, sums);
            for (int column = 0; column < width; column++) columns[column] = odds(pairs[column]);
            add<height, width>(rows + at + 1, columns, sums);
        }
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) out.put(first + row, column * BLOCK, sums[row][column]);
    }

    template <int height, int width>
    static ALWAYS_INLINE void add(const float* inputs, const F32 (&columns)[width], F32 (&sums)[height][width]) {
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) sums[row][column] = fmadd(F32::all(inputs[row * STRIDE]), columns[column], sums[row][column]);
    }
};

// Quantised rows and weights of 8 bits [out / 16][in / 4][16][4], or of 4, whose byte holds an input low and the one four
// behind it high: [out / 16][in / 8][16][4]. Integers are added up in groups, exactly, and the groups in order.
template <class Element, int BITS>
struct ByteLinear {
    static void multiply(const Rows<Element>& rows, const LinearView& linear, int64_t begin, int64_t end, const Out<Element>& out) {
        for (int64_t first = begin; first < end; first += STRIPE)
            by_height<std::min(SUMS / 2, 6), 1>(rows.count, [&]<int height>(int64_t row) {
                by_width<SUMS / 2, height>(std::min(STRIPE, end - first), [&]<int width>(int64_t block) {
                    patch<height, width>(rows, row, linear, first + block, out);
                });
            });
    }

  private:
    static constexpr int64_t BYTES = BITS * GROUP / 8 * BLOCK;  // of a group of a block

    template <int height, int width>
    static void patch(const Rows<Element>& rows, int64_t first, const LinearView& linear, int64_t block, const Out<Element>& out) {
        F32 sums[height][width] = {};
        Quantized inputs = rows.quantized.from(first, rows.in);
        const char* weights[width];
        for (int column = 0; column < width; column++) weights[column] = static_cast<const char*>(linear.weight) + (block + column) * (rows.in / GROUP) * BYTES;
        int64_t num_groups = rows.in / GROUP;
        for (int64_t group = 0; group < num_groups; group++) {
            ByteSums<BITS> parts[height][width];
            if constexpr (BITS == 8 && TAKES_UNSIGNED)
                for (int row = 0; row < height; row++)
                    for (int column = 0; column < width; column++) parts[row][column].sums = I32::all(inputs.offsets[row * num_groups + group]);
            add_group<height, width>(inputs.levels + group * GROUP, rows.in, weights, group, parts);
            for (int column = 0; column < width; column++)
                add_up<height, width>(inputs, group, num_groups, linear, ((block + column) * num_groups + group) * BLOCK, column, parts, sums);
        }
        if constexpr (BITS == 4)
            for (int column = 0; column < width; column++) add_minima<height, width>(inputs, linear, block + column, column, sums);
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) out.put(first + row, (block + column) * BLOCK, sums[row][column]);
    }

    // What the minima of a block add, in a pass of its own: registers are short while groups are added up.
    template <int height, int width>
    static ALWAYS_INLINE void add_minima(const Quantized& inputs, const LinearView& linear, int64_t block, int column, F32 (&sums)[height][width]) {
        int64_t num_groups = linear.in / GROUP;
        for (int64_t group = 0; group < num_groups; group++) {
            F32 mins = load_float16(linear.mins + (block * num_groups + group) * BLOCK);
            for (int row = 0; row < height; row++) sums[row][column] = fmadd(mins, F32::all(inputs.sums[row * num_groups + group]), sums[row][column]);
        }
    }

    template <int height, int width>
    static ALWAYS_INLINE void add_group(const int8_t* levels, int64_t in, const char* const (&weights)[width], int64_t group, ByteSums<BITS> (&parts)[height][width]) {
        for (int64_t step = 0; step < BYTES; step += 64) {
            U32 lines[width];
            for (int column = 0; column < width; column++) {
                lines[column] = U32::at(weights[column] + group * BYTES + step);
                prefetch_next(weights[column] + group * BYTES + step, in / GROUP * BYTES);
            }
            if constexpr (BITS == 8) {
                for (int column = 0; column < width; column++) lines[column] = signed_where_needed(lines[column]);
                add_step<height, width>(levels + step / 16, in, lines, parts);
            } else {
                U32 low[width], high[width];
                for (int column = 0; column < width; column++) {
                    low[column] = lines[column] & U32::all(0x0f0f0f0f);
                    high[column] = (lines[column] >> 4) & U32::all(0x0f0f0f0f);
                }
                add_step<height, width>(levels + step / 8, in, low, parts);
                add_step<height, width>(levels + step / 8 + 4, in, high, parts);
            }
        }
    }

    template <int height, int width>
    static ALWAYS_INLINE void add_step(const int8_t* levels, int64_t in, const U32 (&columns)[width], ByteSums<BITS> (&parts)[height][width]) {
        for (int row = 0; row < height; row++) {
            U32 inputs = broadcast_pack(levels + row * in);
            for (int column = 0; column < width; column++) parts[row][column].add(columns[column], inputs);
        }
    }

    // The sums of a group under its scales.
    template <int height, int width>
    static ALWAYS_INLINE void add_up(const Quantized& inputs, int64_t group, int64_t num_groups, const LinearView& linear, int64_t place, int column,
                                     const ByteSums<BITS> (&parts)[height][width], F32 (&sums)[height][width]) {
        F32 scales = load_float16(linear.scales + place);
        for (int row = 0; row < height; row++) {
            int64_t at = row * num_groups + group;
            F32 whole = parts[row][column].total().template to<float>();
            sums[row][column] = fmadd(whole, scales * F32::all(inputs.scales[at]), sums[row][column]);
        }
    }
};

// Whether quantised rows are multiplied with quantised weights. The matrix unit has its weights dequantized instead: it
// is worth more than bytes. So have units that do not multiply bytes.
constexpr bool QUANTIZES_ROWS = HAS_BYTES && !HAS_AMX;

// The weights of two inputs of sixteen outputs, as packs: [in / 2][16][2] of bfloat16 or [in][16] of float32.
ALWAYS_INLINE void dequantize_pair(float* to, int64_t at, const F32& even, const F32& odd) {
    store(to + at * BLOCK, even);
    store(to + (at + 1) * BLOCK, odd);
}
ALWAYS_INLINE void dequantize_pair(bf16* to, int64_t at, const F32& even, const F32& odd) {
    (to_bf16_bits(even) | (to_bf16_bits(odd) << 16)).put(to + at * BLOCK);
}

// The weights of one block, of 8 or 4 bits, as packs of elements.
template <class Element>
void dequantize(const LinearView& linear, int64_t block, Element* to) {
    int64_t num_groups = linear.in / GROUP, bytes = linear.bits * 4 * BLOCK;
    const char* from = static_cast<const char*>(linear.weight) + block * num_groups * bytes;
    for (int64_t group = 0; group < num_groups; group++) {
        int64_t place = (block * num_groups + group) * BLOCK;
        F32 scales = load_float16(linear.scales + place);
        F32 mins = linear.bits == 8 ? F32::all(-128.0f) * scales : load_float16(linear.mins + place);
        for (int64_t at = 0; at < GROUP; at += 2) {
            auto weights_of = [&](int64_t input) {
                int64_t line = linear.bits == 8 ? input / 4 : input / 8, shift = input % 4 * 8 + (linear.bits == 4 ? input % 8 / 4 * 4 : 0);
                U32 levels = (U32::at(from + group * bytes + line * 64) >> static_cast<int>(shift)) & U32::all(linear.bits == 8 ? 255 : 15);
                return fmadd(levels.as<int32_t>().to<float>(), scales, mins);
            };
            dequantize_pair(to, group * GROUP + at, weights_of(at), weights_of(at + 1));
        }
    }
}

// Rows times blocks of plain weights.
template <class Element>
void multiply_plain(const Rows<Element>& rows, const Element* weights, int64_t num_blocks, const Out<Element>& out) {
    if constexpr (sizeof(Element) == 4) PackLinear<float>::multiply(rows, weights, num_blocks, out);
    else if constexpr (HAS_AMX) AmxLinear<Element>::multiply(rows, weights, num_blocks, out);
    else if constexpr (HAS_PAIRS) PackLinear<bf16>::multiply(rows, weights, num_blocks, out);
    else WideLinear::multiply(rows, weights, num_blocks, out);
}

// `rows` times the blocks [begin, end) of `linear`.
template <class Element>
void multiply(const Rows<Element>& rows, const LinearView& linear, int64_t begin, int64_t end, const Out<Element>& out) {
    if (linear.bits > 8) {
        const Element* weights = static_cast<const Element*>(linear.weight) + begin * BLOCK * linear.in;
        return multiply_plain(rows, weights, end - begin, out.from(begin * BLOCK));
    }
    if constexpr (QUANTIZES_ROWS) {
        if (linear.bits == 8) return ByteLinear<Element, 8>::multiply(rows, linear, begin, end, out);
        return ByteLinear<Element, 4>::multiply(rows, linear, begin, end, out);
    } else {
        // A few blocks at a time, once for all rows.
        static thread_local Buffer<Element> weights;
        grow(weights, STRIPE * BLOCK * linear.in);
        for (int64_t block = begin; block < end; block += STRIPE) {
            int64_t width = std::min(STRIPE, end - block);
            for (int64_t index = 0; index < width; index++) dequantize(linear, block + index, weights.data() + index * BLOCK * linear.in);
            multiply_plain<Element>(rows, weights.data(), width, out.from(block * BLOCK));
        }
    }
}

}  // namespace native::NATIVE_UNIT
