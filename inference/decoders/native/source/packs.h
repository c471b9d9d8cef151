// Packs of inputs that are multiplied and added up in one step: two of bfloat16, four of a byte, one of float32. A lane
// of 32 bits holds a pack, and a sum of 32 bits takes in what two packs make.
#pragma once
#include "vectors.h"

namespace native::NATIVE_UNIT {

template <class Element>
constexpr int64_t PACK = 4 / sizeof(Element);

template <class Element>
struct PacksOf {
    using type = U32;
};
template <>
struct PacksOf<float> {
    using type = F32;
};
template <class Element>
using Packs = typename PacksOf<Element>::type;

template <class Element>
ALWAYS_INLINE Packs<Element> load_packs(const Element* from) {
    return Packs<Element>::at(from);
}

// The pack at `from` in every lane.
template <class Element>
ALWAYS_INLINE Packs<Element> broadcast_pack(const Element* from) {
    if constexpr (sizeof(Element) == 4) return F32::all(*from);
    else {
        uint32_t pack;
        std::memcpy(&pack, from, 4);
        return U32::all(pack);
    }
}

ALWAYS_INLINE F32 evens(const U32& pairs) { return (pairs << 16).as<float>(); }
ALWAYS_INLINE F32 odds(const U32& pairs) { return (pairs & U32::all(0xffff0000)).as<float>(); }

#if defined(__AVX512BF16__) || (defined(NATIVE_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC))
constexpr bool HAS_PAIRS = true;
#else
constexpr bool HAS_PAIRS = false;
#endif

// `sum` and the products of two pairs of bfloat16.
ALWAYS_INLINE F32 dot(const F32& sum, const U32& a, const U32& b) {
#if defined(__AVX512BF16__)
    return {_mm512_dpbf16_ps(sum.parts[0], reinterpret_cast<__m512bh>(a.parts[0]), reinterpret_cast<__m512bh>(b.parts[0]))};
#elif defined(NATIVE_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return F32::of([&](int part) -> Part<float> {
        return vbfdotq_f32(sum.parts[part], reinterpret_cast<bfloat16x8_t>(a.parts[part]), reinterpret_cast<bfloat16x8_t>(b.parts[part]));
    });
#else
    return fmadd(odds(a), odds(b), fmadd(evens(a), evens(b), sum));
#endif
}
ALWAYS_INLINE F32 dot(const F32& sum, const F32& a, const F32& b) { return fmadd(a, b, sum); }
ALWAYS_INLINE void add_product(F32& sum, const U32& a, const U32& b) { sum = dot(sum, a, b); }

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD) || defined(__AVX2__)
constexpr bool HAS_BYTES = true;
#else
constexpr bool HAS_BYTES = false;
#endif

// Whether a product takes its first factor without a sign, so that weights of 8 bits come as they lie: with 128 added.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool TAKES_UNSIGNED = true;
#else
constexpr bool TAKES_UNSIGNED = false;
#endif

// Four weights of eight bits a lane as `ByteSums` wants them: signed, where `TAKES_UNSIGNED` says no.
ALWAYS_INLINE U32 signed_where_needed(const U32& weights) { return TAKES_UNSIGNED ? weights : weights ^ U32::all(0x80808080); }

// Sixteen bytes, and again in each 128 bits.
ALWAYS_INLINE U32 load_table(const uint8_t* from) {
    alignas(64) uint8_t copies[64];
    for (int copy = 0; copy < 4; copy++) std::memcpy(copies + copy * 16, from, 16);
    return U32::at(copies);
}

// The bytes of a table at `places`, each from 0 to 15.
ALWAYS_INLINE U32 look_up(const U32& table, const U32& places) {
    return U32::of([&](int part) -> Part<uint32_t> {
#if defined(__AVX512F__)
        return reinterpret_cast<Part<uint32_t>>(_mm512_shuffle_epi8(reinterpret_cast<__m512i>(table.parts[part]), reinterpret_cast<__m512i>(places.parts[part])));
#elif defined(__AVX2__)
        return reinterpret_cast<Part<uint32_t>>(_mm256_shuffle_epi8(reinterpret_cast<__m256i>(table.parts[part]), reinterpret_cast<__m256i>(places.parts[part])));
#elif defined(NATIVE_NEON)
        return reinterpret_cast<Part<uint32_t>>(vqtbl1q_u8(reinterpret_cast<uint8x16_t>(table.parts[part]), reinterpret_cast<uint8x16_t>(places.parts[part])));
#else
        return table.parts[part] + places.parts[part];  // no linear is multiplied so here
#endif
    });
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)

// Products of bytes are added up in pairs of 16 bits, which hold those of a group of 32 levels of four bits, and of a
// single pair of five and eight bits.
template <int BITS>
struct ByteSums {
#if defined(__AVX512F__)
    using Register = __m512i;
#else
    using Register = __m256i;
#endif
    Register sums[PARTS] = {};

    ALWAYS_INLINE void add(const U32& weights, const U32& inputs) {
        each_part([&](int part) {
            auto left = reinterpret_cast<Register>(weights.parts[part]), right = reinterpret_cast<Register>(inputs.parts[part]);
            if constexpr (BITS == 4) sums[part] = add16(sums[part], multiply(left, right));
            else sums[part] = add32(sums[part], widened(BITS == 5 ? multiply(left, right) : signed_products(left, right)));
        });
    }
    ALWAYS_INLINE I32 total() const {
        return I32::of([&](int part) { return reinterpret_cast<Part<int32_t>>(BITS == 4 ? widened(sums[part]) : sums[part]); });
    }

  private:
#if defined(__AVX512F__)
    static Register multiply(Register a, Register b) { return _mm512_maddubs_epi16(a, b); }
    static Register add16(Register a, Register b) { return _mm512_add_epi16(a, b); }
    static Register add32(Register a, Register b) { return _mm512_add_epi32(a, b); }
    static Register widened(Register a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
    static Register signed_products(Register a, Register b) {
        Register negative = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
        return multiply(_mm512_abs_epi8(a), negative);
    }
#else
    static Register multiply(Register a, Register b) { return _mm256_maddubs_epi16(a, b); }
    static Register add16(Register a, Register b) { return _mm256_add_epi16(a, b); }
    static Register add32(Register a, Register b) { return _mm256_add_epi32(a, b); }
    static Register widened(Register a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
    static Register signed_products(Register a, Register b) { return multiply(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a)); }
#endif
};

#else

// Sums of products of four levels or weights a lane with four integers of eight bits.
template <int BITS>
struct ByteSums {
    I32 sums = {};

    ALWAYS_INLINE void add(const U32& weights, const U32& inputs) {
        sums = I32::of([&](int part) -> Part<int32_t> {
#if defined(__AVX512VNNI__)
            return reinterpret_cast<Part<int32_t>>(_mm512_dpbusd_epi32(
                reinterpret_cast<__m512i>(sums.parts[part]), reinterpret_cast<__m512i>(weights.parts[part]), reinterpret_cast<__m512i>(inputs.parts[part])));
#elif defined(__AVXVNNI__)
            return reinterpret_cast<Part<int32_t>>(_mm256_dpbusd_avx_epi32(
                reinterpret_cast<__m256i>(sums.parts[part]), reinterpret_cast<__m256i>(weights.parts[part]), reinterpret_cast<__m256i>(inputs.parts[part])));
#elif defined(NATIVE_NEON) && defined(__ARM_FEATURE_MATMUL_INT8)
            return vusdotq_s32(sums.parts[part], reinterpret_cast<uint8x16_t>(weights.parts[part]), reinterpret_cast<int8x16_t>(inputs.parts[part]));
#elif defined(NATIVE_NEON) && defined(__ARM_FEATURE_DOTPROD)
            return vdotq_s32(sums.parts[part], reinterpret_cast<int8x16_t>(weights.parts[part]), reinterpret_cast<int8x16_t>(inputs.parts[part]));
#else
            return sums.parts[part];  // no linear is multiplied so here
#endif
        });
    }
    ALWAYS_INLINE I32 total() const { return sums; }
};

#endif

}  // namespace native::NATIVE_UNIT
