// Products of quantised rows with weights of few bits. Integers of a group are added up exactly, and groups in order.
#pragma once
#include "few_bits.h"
#include "patches.h"

namespace native::NATIVE_UNIT {

// Quantised rows and weights of few bits, as `LinearView` has them.
template <Form form>
struct ByteLinear {
    static void multiply(const Quantized& rows, int64_t count, const LinearView& linear, int64_t begin, int64_t end, const Out<bf16>& out) {
        int64_t bytes = linear.in / GROUP * BYTES<form>;
        Stripes stripes{static_cast<const char*>(linear.weight) + begin * bytes, bytes, end - begin, PAIR};
        by_patch<2, TALL>(count, linear.in, stripes, [&]<int height, int width>(int64_t row, int64_t block, Ahead& ahead) {
            if (row == 0) ask_beside(linear, begin + block + PAIR);
            patch<height, width>(rows, row, linear, begin + block, out, ahead);
        });
    }

  private:
    static constexpr int TALL = height_of<2>(6);
    static constexpr int64_t PAIR = 2;  // blocks of a stripe here, as wide as most patches: of bytes they stay in the nearest cache
    using Sums = ByteSums<form == Form::FOUR ? 4 : form == Form::FIVE ? 5 : 8>;

    // Ask for what lies beside the weights of the blocks from `block` on.
    static void ask_beside(const LinearView& linear, int64_t block) {
        int64_t groups = linear.in / GROUP;
        ask_for(linear.scales, block, groups * BLOCK * 2);
        if (HAS_MINIMA<form> && linear.mins) ask_for(linear.mins, block, groups * BLOCK * 2);
        if (form == Form::FIVE) ask_for(linear.fifths, block, groups * BLOCK * 4);
    }
    static void ask_for(const void* from, int64_t block, int64_t bytes) {
        const char* at = static_cast<const char*>(from) + block * bytes;
        for (const char* end = at + PAIR * bytes; at < end; at += 64) __builtin_prefetch(at, 0, 2);
    }

    template <int height, int width>
    static APART void patch(const Quantized& rows, int64_t first, const LinearView& linear, int64_t block, const Out<bf16>& out, Ahead& ahead) {
        F32 sums[height][width] = {};
        Quantized inputs = rows.from(first, linear.in);
        const char* weights[width];
        for (int column = 0; column < width; column++) weights[column] = static_cast<const char*>(linear.weight) + (block + column) * (linear.in / GROUP) * BYTES<form>;
        int64_t num_groups = linear.in / GROUP;
        U32 codes = {};
        if constexpr (form == Form::CODED) codes = signed_where_needed(load_table(linear.codes));
        for (int64_t group = 0; group < num_groups; group++) {
            ahead.ask_for_part<height>();
            Sums parts[height][width];
            if constexpr (!HAS_MINIMA<form> && TAKES_UNSIGNED)
                unrolled<height>([&](auto row) ALWAYS_INLINED {
                    I32 offset = I32::all(inputs.offsets[row * num_groups + group]);
                    unrolled<width>([&](auto column) ALWAYS_INLINED { parts[row][column].sums = offset; });
                });
            U32 beside[width];
            if constexpr (form == Form::FIVE)
                unrolled<width>([&](auto column) ALWAYS_INLINED { beside[column] = U32::at(linear.fifths + ((block + column) * num_groups + group) * BLOCK * 4); });
            if constexpr (form == Form::CODED) unrolled<width>([&](auto column) ALWAYS_INLINED { beside[column] = codes; });
            add_group<height, width>(inputs.levels + group * GROUP, linear.in, weights, beside, group, parts);
            unrolled<width>([&](auto column) ALWAYS_INLINED {
                add_up<height, width>(inputs, group, num_groups, linear, ((block + column) * num_groups + group) * BLOCK, column, parts, sums);
            });
        }
        if constexpr (HAS_MINIMA<form>)
            unrolled<width>([&](auto column) ALWAYS_INLINED { add_minima<height, width>(inputs, linear, block + column, column, sums); });
        each_sum<height, width>([&](auto row, auto column) ALWAYS_INLINED { out.put(first + row, (block + column) * BLOCK, sums[row][column]); });
    }

    // What the minima of a block add, in a pass of its own: registers are short while groups are added up.
    template <int height, int width>
    static ALWAYS_INLINE void add_minima(const Quantized& inputs, const LinearView& linear, int64_t block, int column, F32 (&sums)[height][width]) {
        int64_t num_groups = linear.in / GROUP;
        for (int64_t group = 0; group < num_groups; group++) {
            F32 mins = minima_of(linear, (block * num_groups + group) * BLOCK);
            unrolled<height>([&](auto row) ALWAYS_INLINED { sums[row][column] = fmadd(mins, F32::all(inputs.sums[row * num_groups + group]), sums[row][column]); });
        }
    }

    // `beside` is what completes the levels of four bits: their fifths, or the codes whose places they are.
    template <int height, int width>
    static ALWAYS_INLINE void add_group(const int8_t* levels, int64_t in, const char* const (&weights)[width], U32 (&beside)[width], int64_t group,
                                        Sums (&parts)[height][width]) {
        for (int64_t step = 0; step < BYTES<form>; step += 64) {
            U32 lines[width];
            unrolled<width>([&](auto column) ALWAYS_INLINED {
                const char* line = weights[column] + group * BYTES<form> + step;
                lines[column] = U32::at(line);
                Ahead::ask_behind<height>(line, PAIR * in / GROUP * BYTES<form>);
            });
            if constexpr (form == Form::EIGHT) {
                unrolled<width>([&](auto column) ALWAYS_INLINED { lines[column] = signed_where_needed(lines[column]); });
                add_step<height, width>(levels + step / 16, in, lines, parts);
            } else {
                U32 low[width], high[width];
                unrolled<width>([&](auto column) ALWAYS_INLINED {
                    low[column] = completed<form, 0>(lines[column] & U32::all(0x0f0f0f0f), beside[column]);
                    high[column] = completed<form, 1>((lines[column] >> 4) & U32::all(0x0f0f0f0f), beside[column]);
                    if constexpr (form == Form::FIVE) beside[column] = beside[column] >> 2;
                });
                add_step<height, width>(levels + step / 8, in, low, parts);
                add_step<height, width>(levels + step / 8 + 4, in, high, parts);
            }
        }
    }

    template <int height, int width>
    static ALWAYS_INLINE void add_step(const int8_t* levels, int64_t in, const U32 (&columns)[width], Sums (&parts)[height][width]) {
        unrolled<height>([&](auto row) ALWAYS_INLINED {
            U32 inputs = broadcast_pack(levels + row * in);
            unrolled<width>([&](auto column) ALWAYS_INLINED { parts[row][column].add(columns[column], inputs); });
        });
    }

    // The sums of a group under its scales.
    template <int height, int width>
    static ALWAYS_INLINE void add_up(const Quantized& inputs, int64_t group, int64_t num_groups, const LinearView& linear, int64_t place, int column,
                                     const Sums (&parts)[height][width], F32 (&sums)[height][width]) {
        F32 scales = load_float16(linear.scales + place);
        unrolled<height>([&](auto row) ALWAYS_INLINED {
            F32 whole = parts[row][column].total().template to<float>();
            sums[row][column] = fmadd(whole, scales * F32::all(inputs.scales[row * num_groups + group]), sums[row][column]);
        });
    }
};

}  // namespace native::NATIVE_UNIT
