// Products of rows with packed weights. Each output is one sum over `in` in a fixed order, whatever the number of rows,
// so a row's bits never depend on who else is there.
#pragma once
#include "amx_linear.h"
#include "byte_linear.h"

namespace native::NATIVE_UNIT {

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

// Whether quantised rows are multiplied with quantised weights. Units that do not multiply bytes have their weights
// dequantized instead.
constexpr bool QUANTIZES_ROWS = HAS_BYTES;

// Rows times blocks of plain weights.
template <class Element>
void multiply_plain(const Rows<Element>& rows, const Element* weights, int64_t num_blocks, const Out<Element>& out) {
    if constexpr (sizeof(Element) == 4) PackLinear<float>::multiply(rows, weights, num_blocks, out);
    else if constexpr (HAS_AMX) AmxLinear<Element>::multiply(rows, weights, num_blocks, out);
    else if constexpr (HAS_PAIRS) PackLinear<bf16>::multiply(rows, weights, num_blocks, out);
    else WideLinear::multiply(rows, weights, num_blocks, out);
}

// Quantised rows times the blocks [begin, end) of a `linear` of few bits.
template <class Element>
void multiply_bytes(const Rows<Element>& rows, const LinearView& linear, int64_t begin, int64_t end, const Out<bf16>& out) {
    auto multiply_as = [&]<Form form>() { ByteLinear<form>::multiply(rows.quantized, rows.count, linear, begin, end, out); };
    switch (form_of(linear)) {
        case Form::EIGHT: return multiply_as.template operator()<Form::EIGHT>();
        case Form::FIVE: return multiply_as.template operator()<Form::FIVE>();
        case Form::FOUR: return multiply_as.template operator()<Form::FOUR>();
        case Form::CODED: return multiply_as.template operator()<Form::CODED>();
    }
}

// `rows` times the blocks [begin, end) of `linear`.
template <class Element>
void multiply(const Rows<Element>& rows, const LinearView& linear, int64_t begin, int64_t end, const Out<Element>& out) {
    if (linear.bits > 8) {
        const Element* weights = static_cast<const Element*>(linear.weight) + begin * BLOCK * linear.in;
        return multiply_plain(rows, weights, end - begin, out.from(begin * BLOCK));
    }
    if constexpr (QUANTIZES_ROWS) {
        return multiply_bytes(rows, linear, begin, end, out.as_elements());
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
