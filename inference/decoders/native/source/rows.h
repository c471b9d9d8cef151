// The rows that are multiplied, as numbers or quantised; where products go; and how products are cut into patches whose
// sums stay in registers.
#pragma once
#include <algorithm>

#include "packs.h"

namespace native::NATIVE_UNIT {

constexpr int64_t BLOCK = 16;  // outputs of a packed block
constexpr int64_t GROUP = 32;  // inputs that are quantised together
constexpr int64_t MAX_IN = 32768;

// Rows of integers of eight bits. Every group of a row has a scale, and the sum of its integers: times -128, which takes
// off what weights have too much, and times its scale, which a group's minimum is multiplied with.
struct Quantized {
    int8_t* levels = nullptr;   // [count][in]
    float* scales = nullptr;    // [count][in / 32], as are
    int32_t* offsets = nullptr;
    float* sums = nullptr;

    // The same from a row on.
    Quantized from(int64_t row, int64_t in) const {
        int64_t groups = row * in / GROUP;
        return {levels + row * in, scales + groups, offsets + groups, sums + groups};
    }
};

// `count` rows [count][in] and, where a linear wants it, the same quantised.
template <class Element>
struct Rows {
    const Element* data;
    int64_t count, in;
    Quantized quantized = {};
};

// Where products go: as elements, or as float32 where `wide` is set.
template <class Element>
struct Out {
    Element* data;
    float* wide;
    int64_t stride;

    // The same from a column on.
    Out from(int64_t column) const { return {data ? data + column : data, wide ? wide + column : wide, stride}; }

    // The same from a row on.
    Out below(int64_t row) const { return from(row * stride); }

    // The same for products that do not know the elements: float32 goes to `wide`.
    Out<bf16> as_elements() const {
        if constexpr (sizeof(Element) == sizeof(bf16)) return *this;
        else return {nullptr, wide ? wide : data, stride};
    }

    ALWAYS_INLINE void put(int64_t row, int64_t column, const F32& values) const {
        if (wide)
            store(wide + row * stride + column, values);
        else
            store(data + row * stride + column, values);
    }
};

// Quantise a group of a row: 127 stands for its largest number.
template <class Element>
ALWAYS_INLINE void quantize_group(const Element* numbers, int8_t* levels, float* scale, int32_t* offset, float* sum) {
    F32 low = load(numbers), high = load(numbers + 16);
    float top = largest_of(max(abs(low), abs(high)));
    F32 inverse = F32::all(top > 0 ? 127 / top : 0);
    I32 left = nearest(low * inverse), right = nearest(high * inverse);
    store_bytes(levels, left);
    store_bytes(levels + 16, right);
    int32_t all = total(left + right);
    *scale = top / 127;
    *offset = -128 * all;
    *sum = *scale * static_cast<float>(all);
}

template <class Element>
void quantize(const Element* row, int64_t in, const Quantized& to) {
    for (int64_t group = 0; group < in / GROUP; group++)
        quantize_group(row + group * GROUP, to.levels + group * GROUP, to.scales + group, to.offsets + group, to.sums + group);
}

// How many columns go with `height` rows so that registers hold all sums, the columns and an input. Of `kinds` sums each.
template <int kinds>
constexpr int width_of(int height) {
    return std::min((REGISTERS - 1) / PARTS / (kinds * height + 1), 4);
}

// The most rows of a patch.
template <int kinds>
constexpr int height_of(int most) {
    return width_of<kinds>(most) || most == 1 ? most : height_of<kinds>(most - 1);
}

// Call `function.operator()<height, width>(row, block)` for all blocks: as many at once as go with `height` rows, then two,
// whose sums keep the multipliers busy too. The last of an odd number is multiplied with row by row.
template <int kinds, int height, class Function>
ALWAYS_INLINE void by_width(int64_t num_blocks, const Function& function) {
    constexpr int width = std::max(width_of<kinds>(height), 1);
    int64_t block = 0;
    for (; block + width <= num_blocks; block += width) function.template operator()<height, width>(0, block);
    if constexpr (width > 2)
        for (; block + 2 <= num_blocks; block += 2) function.template operator()<height, 2>(0, block);
    if constexpr (width > 1)
        if (block < num_blocks)
            for (int64_t row = 0; row < height; row++) function.template operator()<1, 1>(row, block);
}

// Call `function(row, column)` for all sums of a patch, both constants.
template <int height, int width, class Function>
ALWAYS_INLINE void each_sum(const Function& function) {
    unrolled<height>([&](auto row) ALWAYS_INLINED { unrolled<width>([&](auto column) ALWAYS_INLINED { function(row, column); }); });
}

// Rows that are multiplied before their weights have come from memory.
constexpr int64_t FEW = 4;

// How many patches of at most `most` rows are made of `count`. A single tall one would wait for all of its weights.
template <int most>
int64_t num_patches(int64_t count) {
    return std::max<int64_t>((count + most - 1) / most, count > FEW ? 2 : 1);
}

template <int most, class Function>
ALWAYS_INLINE int64_t take_rows(int64_t height, int64_t row, const Function& function) {
    if constexpr (most > 1)
        if (height < most) return take_rows<most - 1>(height, row, function);
    function.template operator()<most>(row);
    return most;
}

// Call `function.operator()<height>(row)` for all of `count` rows: in as few patches as `most` allows, which are alike, so
// that none is left with a row or two.
template <int most, class Function>
ALWAYS_INLINE void by_height(int64_t count, const Function& function) {
    int64_t left = num_patches<most>(count);
    for (int64_t row = 0; row < count; left--) row += take_rows<most>((count - row + left - 1) / left, row, function);
}

}  // namespace native::NATIVE_UNIT
