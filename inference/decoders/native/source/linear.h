// Products of rows with packed weights. Each output is one sum over `in` in a fixed order, whatever the number of rows,
// so a row's bits never depend on who else is there.
#pragma once
#include "amx_linear.h"
#include "rows.h"

namespace native::NATIVE_UNIT {

constexpr int64_t STRIPE = 4;  // blocks that stay in the cache while all rows pass by

// Weights are read once from memory, which has to be busy while rows are multiplied. Few rows are done before their weights
// are there: every line asks for the one a stripe behind it. Of many, the patches of a stripe ask for the next in turn, each
// for as much, or memory would have work for the first and none for the rest.
class Ahead {
  public:
    // The next stripe: `bytes` from `next` on, asked for in `count` parts.
    Ahead(const void* next, int64_t bytes, int64_t count)
        : at_(static_cast<const char*>(next)), end_(at_ + bytes), part_((bytes / LINE + count - 1) / count * LINE) {}

    template <int height>
    ALWAYS_INLINE void ask_for_part() {
        if constexpr (height <= FEW) return;
        const char* end = std::min(end_, at_ + part_);
        for (; at_ < end; at_ += LINE) __builtin_prefetch(at_, 0, 2);
    }
    // `line` asks for the one `bytes` behind it.
    template <int height>
    static ALWAYS_INLINE void ask_behind(const void* line, int64_t bytes) {
        if constexpr (height <= FEW) __builtin_prefetch(static_cast<const char*>(line) + bytes, 0, 2);
    }

  private:
    static constexpr int64_t LINE = 64;
    const char *at_, *end_;
    int64_t part_;
};

// Blocks of weights of `bytes` each, one behind the other, that are multiplied `stripe` at a time.
struct Stripes {
    const void* weights;
    int64_t bytes, num_blocks, stripe;
};

// Call `function.operator()<height, width>(row, block, ahead)` for all patches of `count` rows of `in` numbers, stripe by
// stripe. A patch adds `kinds` sums for each of its outputs, and has `most` rows at most.
template <int kinds, int most, class Function>
ALWAYS_INLINE void by_patch(int64_t count, int64_t in, const Stripes& of, const Function& function) {
    int64_t num_parts = num_patches<most>(count) * in / GROUP;
    for (int64_t first = 0; first < of.num_blocks; first += of.stripe) {
        Ahead ahead(static_cast<const char*>(of.weights) + (first + of.stripe) * of.bytes, of.stripe * of.bytes, num_parts);
        by_height<most>(count, [&]<int tall>(int64_t top) {
            by_width<kinds, tall>(std::min(of.stripe, of.num_blocks - first), [&]<int height, int width>(int64_t row, int64_t block) {
                function.template operator()<height, width>(top + row, first + block, ahead);
            });
        });
    }
}

// The same address, of which the compiler does not know that it is: what lies there is read again.
template <class Number>
ALWAYS_INLINE const Number* again(const Number* from) {
    asm("" : "+r"(from));
    return from;
}

// Rows and weights of one type, whose packs this unit multiplies as they lie. Weights [out / 16][in / pack][16][pack].
template <class Element>
struct PackLinear {
    static void multiply(const Rows<Element>& rows, const Element* weights, int64_t num_blocks, const Out<Element>& out) {
        Stripes stripes{weights, static_cast<int64_t>(BLOCK * rows.in * sizeof(Element)), num_blocks, STRIPE};
        by_patch<1, TALL>(rows.count, rows.in, stripes, [&]<int height, int width>(int64_t row, int64_t block, Ahead& ahead) {
            patch<height, width>(rows, row, weights, block, out, ahead);
        });
    }

  private:
    static constexpr int TALL = height_of<1>(6);

    template <int height, int width>
    static APART void patch(const Rows<Element>& rows, int64_t first, const Element* weights, int64_t block, const Out<Element>& out, Ahead& ahead) {
        F32 sums[height][width] = {};
        const Element* data = rows.data + first * rows.in;
        weights += block * BLOCK * rows.in;
        for (int64_t group = 0; group < rows.in; group += GROUP) {
            ahead.ask_for_part<height>();
            for (int64_t at = group; at < group + GROUP; at += PACK<Element>) {
                Packs<Element> columns[width];
                unrolled<width>([&](auto column) ALWAYS_INLINED {
                    const Element* line = weights + (column * rows.in + at) * BLOCK;
                    columns[column] = load_packs(line);
                    Ahead::ask_behind<height>(line, STRIPE * rows.in * BLOCK * sizeof(Element));
                });
                unrolled<height>([&](auto row) ALWAYS_INLINED {
                    Packs<Element> inputs = broadcast_pack(data + row * rows.in + at);
                    unrolled<width>([&](auto column) ALWAYS_INLINED { add_product(sums[row][column], inputs, columns[column]); });
                });
            }
        }
        each_sum<height, width>([&](auto row, auto column) ALWAYS_INLINED { out.put(first + row, (block + column) * BLOCK, sums[row][column]); });
    }
};

// Rows and weights of bfloat16 on a unit that multiplies float32. Only some rows at a time are widened, so that they stay
// in the cache.
struct WideLinear {
    static void multiply(const Rows<bf16>& rows, const bf16* weights, int64_t num_blocks, const Out<bf16>& out) {
        int64_t num_parts = (rows.count + WIDENED - 1) / WIDENED;
        for (int64_t part = 0; part < num_parts; part++) {
            int64_t top = rows.count * part / num_parts, end = rows.count * (part + 1) / num_parts;
            multiply_some({rows.data + top * rows.in, end - top, rows.in}, weights, num_blocks, out.below(top));
        }
    }

  private:
    static constexpr int TALL = height_of<1>(REGISTERS == 32 ? 6 : 4);  // pairs are in registers too
    static constexpr int64_t WIDENED = PARTS == 1 ? 24 : TALL;  // where a patch is one block wide, each block reads them anew
    static constexpr int64_t STRIDE = MAX_IN + 48;  // known when this is compiled, and no two rows in one set of the cache

    static void multiply_some(const Rows<bf16>& rows, const bf16* weights, int64_t num_blocks, const Out<bf16>& out) {
        const float* widened = widen(rows);
        Stripes stripes{weights, static_cast<int64_t>(BLOCK * rows.in * sizeof(bf16)), num_blocks, STRIPE};
        by_patch<1, TALL>(rows.count, rows.in, stripes, [&]<int height, int width>(int64_t row, int64_t block, Ahead& ahead) {
            patch<height, width>(widened + row * STRIDE, row, weights + block * BLOCK * rows.in, rows.in, out.from(block * BLOCK), ahead);
        });
    }

    static const float* widen(const Rows<bf16>& rows) {
        static thread_local Buffer<float> scratch;
        grow(scratch, rows.count * STRIDE);
        for (int64_t row = 0; row < rows.count; row++)
            for (int64_t at = 0; at < rows.in; at += 16) store(scratch.data() + row * STRIDE + at, load(rows.data + row * rows.in + at));
        return scratch.data();
    }

    template <int height, int width>
    static APART void patch(const float* rows, int64_t first, const bf16* weights, int64_t in, const Out<bf16>& out, Ahead& ahead) {
        F32 sums[height][width] = {};
        for (int64_t group = 0; group < in; group += GROUP) {
            ahead.ask_for_part<height>();
            for (int64_t at = group; at < group + GROUP; at += 2) {
                F32 columns[width];
                unrolled<width>([&](auto column) ALWAYS_INLINED {
                    const bf16* line = weights + (column * in + at) * BLOCK;
                    columns[column] = evens(load_packs(line));
                    Ahead::ask_behind<height>(line, STRIPE * in * BLOCK * sizeof(bf16));
                });
                add<height, width>(rows + at, columns, sums);
                // Pairs are read twice: kept, they would take registers from the sums.
                const bf16* pairs = again(weights + at * BLOCK);
                unrolled<width>([&](auto column) ALWAYS_INLINED { columns[column] = odds(load_packs(pairs + column * in * BLOCK)); });
                add<height, width>(rows + at + 1, columns, sums);
            }
        }
        each_sum<height, width>([&](auto row, auto column) ALWAYS_INLINED { out.put(first + row, column * BLOCK, sums[row][column]); });
    }

    template <int height, int width>
    static ALWAYS_INLINE void add(const float* inputs, const F32 (&columns)[width], F32 (&sums)[height][width]) {
        unrolled<height>([&](auto row) ALWAYS_INLINED {
            F32 input = F32::all(inputs[row * STRIDE]);
            unrolled<width>([&](auto column) ALWAYS_INLINED { add_product(sums[row][column], input, columns[column]); });
        });
    }
};

// The minima of sixteen groups of 4 bits at `place` of the scales.
ALWAYS_INLINE F32 minima_of(const LinearView& linear, int64_t place) {
    return linear.mins ? load_float16(linear.mins + place) : F32::all(-8.0f) * load_float16(linear.scales + place);
}

// Quantised rows and weights of 8 bits [out / 16][in / 4][16][4], or of 4, whose byte holds an input low and the one four
// behind it high: [out / 16][in / 8][16][4]. Integers are added up in groups, exactly, and the groups in order.
template <int BITS>
struct ByteLinear {
    static void multiply(const Quantized& rows, int64_t count, const LinearView& linear, int64_t begin, int64_t end, const Out<bf16>& out) {
        int64_t bytes = linear.in / GROUP * BYTES;
        Stripes stripes{static_cast<const char*>(linear.weight) + begin * bytes, bytes, end - begin, PAIR};
        by_patch<2, TALL>(count, linear.in, stripes, [&]<int height, int width>(int64_t row, int64_t block, Ahead& ahead) {
            if (row == 0) ask_for_scales(linear.scales, linear.in, begin + block + PAIR);
            if (BITS == 4 && linear.mins && row == 0) ask_for_scales(linear.mins, linear.in, begin + block + PAIR);
            patch<height, width>(rows, row, linear, begin + block, out, ahead);
        });
    }

  private:
    static constexpr int TALL = height_of<2>(6);
    static constexpr int64_t PAIR = 2;  // blocks of a stripe here, as wide as most patches: of bytes they stay in the nearest cache
    static constexpr int64_t BYTES = BITS * GROUP / 8 * BLOCK;  // of a group of a block

    static void ask_for_scales(const uint16_t* scales, int64_t in, int64_t block) {
        const uint16_t* end = scales + (block + PAIR) * in / GROUP * BLOCK;
        for (const uint16_t* at = scales + block * in / GROUP * BLOCK; at < end; at += 32) __builtin_prefetch(at, 0, 2);
    }

    template <int height, int width>
    static APART void patch(const Quantized& rows, int64_t first, const LinearView& linear, int64_t block, const Out<bf16>& out, Ahead& ahead) {
        F32 sums[height][width] = {};
        Quantized inputs = rows.from(first, linear.in);
        const char* weights[width];
        for (int column = 0; column < width; column++) weights[column] = static_cast<const char*>(linear.weight) + (block + column) * (linear.in / GROUP) * BYTES;
        int64_t num_groups = linear.in / GROUP;
        for (int64_t group = 0; group < num_groups; group++) {
            ahead.ask_for_part<height>();
            ByteSums<BITS> parts[height][width];
            if constexpr (BITS == 8 && TAKES_UNSIGNED)
                unrolled<height>([&](auto row) ALWAYS_INLINED {
                    I32 offset = I32::all(inputs.offsets[row * num_groups + group]);
                    unrolled<width>([&](auto column) ALWAYS_INLINED { parts[row][column].sums = offset; });
                });
            add_group<height, width>(inputs.levels + group * GROUP, linear.in, weights, group, parts);
            unrolled<width>([&](auto column) ALWAYS_INLINED {
                add_up<height, width>(inputs, group, num_groups, linear, ((block + column) * num_groups + group) * BLOCK, column, parts, sums);
            });
        }
        if constexpr (BITS == 4)
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

    template <int height, int width>
    static ALWAYS_INLINE void add_group(const int8_t* levels, int64_t in, const char* const (&weights)[width], int64_t group, ByteSums<BITS> (&parts)[height][width]) {
        for (int64_t step = 0; step < BYTES; step += 64) {
            U32 lines[width];
            unrolled<width>([&](auto column) ALWAYS_INLINED {
                lines[column] = U32::at(weights[column] + group * BYTES + step);
                Ahead::ask_behind<height>(weights[column] + group * BYTES + step, PAIR * in / GROUP * BYTES);
            });
            if constexpr (BITS == 8) {
                unrolled<width>([&](auto column) ALWAYS_INLINED { lines[column] = signed_where_needed(lines[column]); });
                add_step<height, width>(levels + step / 16, in, lines, parts);
            } else {
                U32 low[width], high[width];
                unrolled<width>([&](auto column) ALWAYS_INLINED {
                    low[column] = lines[column] & U32::all(0x0f0f0f0f);
                    high[column] = (lines[column] >> 4) & U32::all(0x0f0f0f0f);
                });
                add_step<height, width>(levels + step / 8, in, low, parts);
                add_step<height, width>(levels + step / 8 + 4, in, high, parts);
            }
        }
    }

    template <int height, int width>
    static ALWAYS_INLINE void add_step(const int8_t* levels, int64_t in, const U32 (&columns)[width], ByteSums<BITS> (&parts)[height][width]) {
        unrolled<height>([&](auto row) ALWAYS_INLINED {
            U32 inputs = broadcast_pack(levels + row * in);
            unrolled<width>([&](auto column) ALWAYS_INLINED { parts[row][column].add(columns[column], inputs); });
        });
    }

    // The sums of a group under its scales.
    template <int height, int width>
    static ALWAYS_INLINE void add_up(const Quantized& inputs, int64_t group, int64_t num_groups, const LinearView& linear, int64_t place, int column,
                                     const ByteSums<BITS> (&parts)[height][width], F32 (&sums)[height][width]) {
        F32 scales = load_float16(linear.scales + place);
        unrolled<height>([&](auto row) ALWAYS_INLINED {
            F32 whole = parts[row][column].total().template to<float>();
            sums[row][column] = fmadd(whole, scales * F32::all(inputs.scales[row * num_groups + group]), sums[row][column]);
        });
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
        F32 mins = linear.bits == 8 ? F32::all(-128.0f) * scales : minima_of(linear, place);
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
        auto multiply = linear.bits == 8 ? ByteLinear<8>::multiply : ByteLinear<4>::multiply;
        return multiply(rows.quantized, rows.count, linear, begin, end, out.as_elements());
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
