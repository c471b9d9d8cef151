// Weights of 8, 5 and 4 bits, and what they stand for.
#pragma once
#include "rows.h"

namespace native::NATIVE_UNIT {

// How weights of few bits lie: in 8, in 5 and in 4, and in 4 that are the places of codes.
enum class Form { EIGHT, FIVE, FOUR, CODED };

inline Form form_of(const LinearView& linear) {
    return linear.codes ? Form::CODED : linear.bits == 8 ? Form::EIGHT : linear.bits == 5 ? Form::FIVE : Form::FOUR;
}

template <Form form>
constexpr bool HAS_MINIMA = form == Form::FOUR || form == Form::FIVE;

template <Form form>
constexpr int64_t BYTES = (form == Form::EIGHT ? 8 : 4) * GROUP / 8 * BLOCK;  // of a group of a block

// The minima of sixteen groups of 4 or 5 bits at `place` of the scales.
ALWAYS_INLINE F32 minima_of(const LinearView& linear, int64_t place) {
    return linear.mins ? load_float16(linear.mins + place) : F32::all(linear.bits == 5 ? -16.0f : -8.0f) * load_float16(linear.scales + place);
}

// The weights of two inputs of sixteen outputs, as packs: [in / 2][16][2] of bfloat16 or [in][16] of float32.
ALWAYS_INLINE void dequantize_pair(float* to, int64_t at, const F32& even, const F32& odd) {
    store(to + at * BLOCK, even);
    store(to + (at + 1) * BLOCK, odd);
}
ALWAYS_INLINE void dequantize_pair(bf16* to, int64_t at, const F32& even, const F32& odd) {
    (to_bf16_bits(even) | (to_bf16_bits(odd) << 16)).put(to + at * BLOCK);
}

// Four levels of four bits with what completes them: the fifth bits, which are the `n`-th of each byte, or the codes whose
// places they are.
template <Form form, int n>
ALWAYS_INLINE U32 completed(const U32& levels, const U32& beside) {
    if constexpr (form == Form::FIVE) return levels | ((beside << (4 - n)) & U32::all(0x10101010));
    else if constexpr (form == Form::CODED) return look_up(beside, levels);
    else return levels;
}

// Levels or codes of the n-th input of a group in sixteen outputs, whose weights begin at `from`.
ALWAYS_INLINE U32 levels_of(const LinearView& linear, Form form, const char* from, const uint8_t* fifths, int64_t input) {
    int byte = static_cast<int>(input % 4 * 8), n = static_cast<int>(input / 4);
    if (form == Form::EIGHT) return (U32::at(from + n * 64) >> byte) & U32::all(255);
    U32 levels = (U32::at(from + n / 2 * 64) >> (byte + n % 2 * 4)) & U32::all(15);
    if (form == Form::FIVE) return levels | (((U32::at(fifths) >> (byte + n)) & U32::all(1)) << 4);
    if (form == Form::FOUR) return levels;
    alignas(64) uint32_t places[16];
    levels.put(places);
    for (uint32_t& place : places) place = linear.codes[place];
    return U32::at(places);
}

// The weights of one block of few bits, as packs of elements.
template <class Element>
void dequantize(const LinearView& linear, int64_t block, Element* to) {
    Form form = form_of(linear);
    int64_t num_groups = linear.in / GROUP, bytes = (form == Form::EIGHT ? 8 : 4) * 4 * BLOCK;
    const char* from = static_cast<const char*>(linear.weight) + block * num_groups * bytes;
    for (int64_t group = 0; group < num_groups; group++) {
        int64_t place = (block * num_groups + group) * BLOCK;
        F32 scales = load_float16(linear.scales + place);
        F32 mins = form == Form::EIGHT || form == Form::CODED ? F32::all(-128.0f) * scales : minima_of(linear, place);
        auto weights_of = [&](int64_t input) {
            return fmadd(levels_of(linear, form, from + group * bytes, linear.fifths + place * 4, input).as<int32_t>().to<float>(), scales, mins);
        };
        for (int64_t at = 0; at < GROUP; at += 2) dequantize_pair(to, group * GROUP + at, weights_of(at), weights_of(at + 1));
    }
}

}  // namespace native::NATIVE_UNIT
