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
    int32_t all = reduce(left + right, [](int32_t a, int32_t b) { return a + b; });
    *scale = top / 127;
    *offset = -128 * all;
    *sum = *scale * static_cast<float>(all);
}

template <class Element>
void quantize(const Element* row, int64_t in, const Quantized& to) {
    for (int64_t group = 0; group < in / GROUP; group++)
        quantize_group(row + group * GROUP, to.levels + group * GROUP, to.scales + group, to.offsets + group, to.sums + group);
}

// Call `function.operator()<width>(block)` for all blocks, as many at once as sums of `height` rows stay in registers.
template <int sums, int height, class Function>
ALWAYS_INLINE void by_width(int64_t num_blocks, const Function& function) {
    constexpr int width = std::clamp(sums / height, 1, 4);
    int64_t block = 0;
    for (; block + width <= num_blocks; block += width) function.template operator()<width>(block);
    if constexpr (width > 1)
        for (; block < num_blocks; block++) function.template operator()<1>(block);
}

// Call `function.operator()<height>(row)` for all of `count` rows, as high as `heights` allow.
template <int... heights, class Function>
ALWAYS_INLINE void by_height(int64_t count, const Function& function) {
    int64_t row = 0;
    auto take = [&]<int height>() {
        for (; row + height <= count; row += height) function.template operator()<height>(row);
    };
    (take.template operator()<heights>(), ...);
}

}  // namespace native::NATIVE_UNIT
