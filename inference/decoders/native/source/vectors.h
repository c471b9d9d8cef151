// Sixteen numbers at a time, in as many registers as this unit needs for them: the compiler's own vectors, and beside
// them the few instructions that it does not find by itself.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && !defined(NATIVE_PORTABLE)
#include <arm_neon.h>
#define NATIVE_NEON
#endif

#include "views.h"

#define ALWAYS_INLINED __attribute__((always_inline))
#define APART __attribute__((noinline))  // what surrounds it takes no registers from it
#define ALWAYS_INLINE inline ALWAYS_INLINED

namespace native::NATIVE_UNIT {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;  // numbers of 32 bits in a register
constexpr int REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
constexpr int REGISTERS = 16;
#elif defined(NATIVE_NEON)
constexpr int WIDTH = 4;
constexpr int REGISTERS = 32;
#else
constexpr int WIDTH = 4;
constexpr int REGISTERS = 16;
#endif
constexpr int PARTS = 16 / WIDTH;

// Memory that begins with a line of the cache, so that sixteen numbers never lie across two.
template <class Number>
struct Aligned {
    using value_type = Number;
    static constexpr std::align_val_t LINE{64};

    Aligned() = default;
    template <class Other>
    Aligned(const Aligned<Other>&) {}
    Number* allocate(size_t count) { return static_cast<Number*>(::operator new(count * sizeof(Number), LINE)); }
    void deallocate(Number* numbers, size_t) { ::operator delete(numbers, LINE); }
    bool operator==(const Aligned&) const { return true; }
};

template <class Number>
using Buffer = std::vector<Number, Aligned<Number>>;

template <class Number>
void grow(Buffer<Number>& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
}

template <class Number>
struct PartOf {
    typedef Number type __attribute__((vector_size(WIDTH * sizeof(Number))));
};

// A register of numbers.
template <class Number>
using Part = typename PartOf<Number>::type;

// Call `function(index)` for 0 to `count` - 1, each a constant. A loop would be unrolled too late for what it touches to
// stay in registers.
template <int count, class Function>
ALWAYS_INLINE void unrolled(const Function& function) {
    [&]<int... index>(std::integer_sequence<int, index...>) ALWAYS_INLINED {
        (function(std::integral_constant<int, index>{}), ...);
    }(std::make_integer_sequence<int, count>{});
}

// The registers of a sixteen.
template <class Function>
ALWAYS_INLINE void each_part(const Function& function) {
    unrolled<PARTS>(function);
}

template <class Number>
struct Sixteen {
    Part<Number> parts[PARTS];

    template <class Function>
    static ALWAYS_INLINE Sixteen of(const Function& function) {
        Sixteen made;
        each_part([&](int part) { made.parts[part] = function(part); });
        return made;
    }
    static ALWAYS_INLINE Sixteen all(Number value) {
        return of([&](int) { return value - Part<Number>{}; });
    }
    static ALWAYS_INLINE Sixteen at(const void* from) {
        Sixteen made;
        each_part([&](int part) { std::memcpy(&made.parts[part], static_cast<const char*>(from) + part * WIDTH * 4, WIDTH * 4); });
        return made;
    }
    ALWAYS_INLINE void put(void* to) const {
        each_part([&](int part) { std::memcpy(static_cast<char*>(to) + part * WIDTH * 4, &parts[part], WIDTH * 4); });
    }
    // The same bits as other numbers.
    template <class Other>
    ALWAYS_INLINE Sixteen<Other> as() const {
        return Sixteen<Other>::of([&](int part) { return reinterpret_cast<Part<Other>>(parts[part]); });
    }
    template <class Other>
    ALWAYS_INLINE Sixteen<Other> to() const {
        return Sixteen<Other>::of([&](int part) { return __builtin_convertvector(parts[part], Part<Other>); });
    }

    friend ALWAYS_INLINE Sixteen operator+(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] + b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator-(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] - b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator-(const Sixteen& a) { return of([&](int part) { return -a.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator*(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] * b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator/(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] / b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator&(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] & b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator|(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] | b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator^(const Sixteen& a, const Sixteen& b) { return of([&](int part) { return a.parts[part] ^ b.parts[part]; }); }
    friend ALWAYS_INLINE Sixteen operator<<(const Sixteen& a, int bits) { return of([&](int part) { return a.parts[part] << bits; }); }
    friend ALWAYS_INLINE Sixteen operator>>(const Sixteen& a, int bits) { return of([&](int part) { return a.parts[part] >> bits; }); }
};

using F32 = Sixteen<float>;
using I32 = Sixteen<int32_t>;
using U32 = Sixteen<uint32_t>;

// All bits set where it holds: a mask.
ALWAYS_INLINE I32 less(const F32& a, const F32& b) {
    return I32::of([&](int part) { return reinterpret_cast<Part<int32_t>>(a.parts[part] < b.parts[part]); });
}
ALWAYS_INLINE I32 less(const I32& a, const I32& b) {
    return I32::of([&](int part) { return reinterpret_cast<Part<int32_t>>(a.parts[part] < b.parts[part]); });
}
template <class Number>
ALWAYS_INLINE Sixteen<Number> select(const I32& mask, const Sixteen<Number>& yes, const Sixteen<Number>& no) {
    I32 bits = (mask & yes.template as<int32_t>()) | ((mask ^ I32::all(-1)) & no.template as<int32_t>());
    return bits.template as<Number>();
}

// a * b + c, rounded once where the unit can.
ALWAYS_INLINE F32 fmadd(const F32& a, const F32& b, const F32& c) {
    return F32::of([&](int part) -> Part<float> {
#if defined(__AVX512F__)
        return _mm512_fmadd_ps(a.parts[part], b.parts[part], c.parts[part]);
#elif defined(__FMA__)
        return _mm256_fmadd_ps(a.parts[part], b.parts[part], c.parts[part]);
#elif defined(NATIVE_NEON)
        return vfmaq_f32(c.parts[part], a.parts[part], b.parts[part]);
#else
        return a.parts[part] * b.parts[part] + c.parts[part];
#endif
    });
}

// sum += a * b. Where registers are few the sum stays in its own: compilers move it about, and then to memory.
ALWAYS_INLINE void add_product(F32& sum, const F32& a, const F32& b) {
#if defined(__FMA__)
    each_part([&](int part) ALWAYS_INLINED { asm("vfmadd231ps %2, %1, %0" : "+v"(sum.parts[part]) : "v"(a.parts[part]), "v"(b.parts[part])); });
#else
    sum = fmadd(a, b, sum);
#endif
}
ALWAYS_INLINE F32 fnmadd(const F32& a, const F32& b, const F32& c) { return fmadd(-a, b, c); }

// The larger of each two; a NaN in `b` passes.
ALWAYS_INLINE F32 max(const F32& a, const F32& b) {
    return F32::of([&](int part) -> Part<float> {
#if defined(__AVX512F__)
        return _mm512_max_ps(a.parts[part], b.parts[part]);
#elif defined(__AVX2__)
        return _mm256_max_ps(a.parts[part], b.parts[part]);
#elif defined(__x86_64__)
        return _mm_max_ps(a.parts[part], b.parts[part]);
#elif defined(NATIVE_NEON)
        return vmaxq_f32(a.parts[part], b.parts[part]);
#else
        return a.parts[part] > b.parts[part] ? a.parts[part] : b.parts[part];
#endif
    });
}
ALWAYS_INLINE F32 min(const F32& a, const F32& b) { return -max(-a, -b); }
ALWAYS_INLINE F32 abs(const F32& a) { return (a.as<int32_t>() & I32::all(0x7fffffff)).as<float>(); }

ALWAYS_INLINE U32 widen(const Part<uint16_t> (&halves)[PARTS]) {
    return U32::of([&](int part) -> Part<uint32_t> {
#if defined(__AVX512F__)
        return reinterpret_cast<Part<uint32_t>>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(halves[part])));
#elif defined(__AVX2__)
        return reinterpret_cast<Part<uint32_t>>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(halves[part])));
#else
        return __builtin_convertvector(halves[part], Part<uint32_t>);
#endif
    });
}

ALWAYS_INLINE U32 load_halves(const uint16_t* from) {
    Part<uint16_t> halves[PARTS];
    each_part([&](int part) { std::memcpy(&halves[part], from + part * WIDTH, WIDTH * 2); });
    return widen(halves);
}

// The low halves of sixteen numbers.
ALWAYS_INLINE void store_halves(uint16_t* to, const U32& numbers) {
    each_part([&](int part) {
#if defined(__AVX512F__)
        auto halves = _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(numbers.parts[part]));
#elif defined(__AVX2__)
        __m256i low = _mm256_and_si256(reinterpret_cast<__m256i>(numbers.parts[part]), _mm256_set1_epi32(0xffff));
        auto halves = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
#else
        auto halves = __builtin_convertvector(numbers.parts[part], Part<uint16_t>);
#endif
        std::memcpy(to + part * WIDTH, &halves, WIDTH * 2);
    });
}

// Sixteen small integers as bytes.
ALWAYS_INLINE void store_bytes(int8_t* to, const I32& numbers) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(numbers.parts[0])));
#elif defined(__AVX2__)
    __m256i pairs = _mm256_packs_epi32(reinterpret_cast<__m256i>(numbers.parts[0]), reinterpret_cast<__m256i>(numbers.parts[1]));
    pairs = _mm256_permute4x64_epi64(pairs, 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
#else
    each_part([&](int part) {
        auto bytes = __builtin_convertvector(numbers.parts[part], Part<int8_t>);
        std::memcpy(to + part * WIDTH, &bytes, WIDTH);
    });
#endif
}

// Round to nearest, ties to even; a NaN stays one.
ALWAYS_INLINE U32 to_bf16_bits(const F32& values) {
    U32 bits = values.as<uint32_t>();
    U32 rounded = bits + U32::all(0x7fff) + ((bits >> 16) & U32::all(1));
    I32 is_nan = less(I32::all(0x7f800000), (bits & U32::all(0x7fffffff)).as<int32_t>());
    return select(is_nan, bits | U32::all(0x400000), rounded) >> 16;
}

ALWAYS_INLINE F32 load(const bf16* from) { return (load_halves(from) << 16).as<float>(); }
ALWAYS_INLINE F32 load(const float* from) { return F32::at(from); }
ALWAYS_INLINE void store(float* to, const F32& values) { values.put(to); }
ALWAYS_INLINE void store(bf16* to, const F32& values) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values.parts[0])));
#else
    store_halves(to, to_bf16_bits(values));
#endif
}

// Sixteen numbers of 16 bits, as IEEE has them; none is infinite.
ALWAYS_INLINE F32 load_float16(const uint16_t* from) {
    U32 bits = load_halves(from);
    F32 sizes = ((bits & U32::all(0x7fff)) << 13).as<float>() * F32::all(0x1p112f);
    return (sizes.as<uint32_t>() | ((bits & U32::all(0x8000)) << 16)).as<float>();
}

// As `to_bf16_bits`.
inline void round_to(float value, bf16& rounded) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    rounded = static_cast<bf16>((is_nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void round_to(float value, float& rounded) { rounded = value; }
inline float number(float value) { return value; }
inline float number(bf16 value) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

// 0 to 15.
ALWAYS_INLINE I32 lanes() {
    static constexpr int32_t NUMBERS[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return I32::at(NUMBERS);
}

// A mask of the lanes from `first` on that are below `end`.
ALWAYS_INLINE I32 between(int64_t first, int64_t end) {
    I32 here = lanes();
    return less(I32::all(static_cast<int32_t>(first) - 1), here) & less(here, I32::all(static_cast<int32_t>(end)));
}

// In an order that is always the same.
template <class Number, class Function>
ALWAYS_INLINE Number reduce(const Sixteen<Number>& values, const Function& function) {
    alignas(64) Number numbers[16];
    values.put(numbers);
    for (int step = 8; step; step /= 2)
        for (int lane = 0; lane < step; lane++) numbers[lane] = function(numbers[lane], numbers[lane + step]);
    return numbers[0];
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// The same in registers, in the same order.
template <class Number, class Function>
ALWAYS_INLINE Number fold(const Sixteen<Number>& values, const Function& function) {
    using Eight = Part<Number>;
    Eight all = function(values.parts[0], values.parts[1]);
    __m256 bits = reinterpret_cast<__m256>(all);
    all = function(all, reinterpret_cast<Eight>(_mm256_permute2f128_ps(bits, bits, 1)));
    all = function(all, reinterpret_cast<Eight>(_mm256_permute_ps(reinterpret_cast<__m256>(all), 0b01001110)));
    return function(all, reinterpret_cast<Eight>(_mm256_permute_ps(reinterpret_cast<__m256>(all), 0b10110001)))[0];
}
#endif

ALWAYS_INLINE float total(const F32& values) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(values.parts[0]);
#elif defined(__AVX2__)
    return fold(values, [](Part<float> a, Part<float> b) ALWAYS_INLINED { return a + b; });
#else
    return reduce(values, [](float a, float b) { return a + b; });
#endif
}
ALWAYS_INLINE int32_t total(const I32& values) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(values.parts[0]));
#elif defined(__AVX2__)
    return fold(values, [](Part<int32_t> a, Part<int32_t> b) ALWAYS_INLINED { return a + b; });
#else
    return reduce(values, [](int32_t a, int32_t b) { return a + b; });
#endif
}
ALWAYS_INLINE float largest_of(const F32& values) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(values.parts[0]);
#elif defined(__AVX2__)
    return fold(values, [](Part<float> a, Part<float> b) ALWAYS_INLINED -> Part<float> { return _mm256_max_ps(a, b); });
#else
    return reduce(values, [](float a, float b) { return a > b ? a : b; });
#endif
}

// The nearest integers of numbers below 2^22, ties to even: where they are added to 1.5 * 2^23, its last bits count ones.
ALWAYS_INLINE I32 nearest(const F32& x) { return (x + F32::all(12582912.0f)).as<int32_t>() - I32::all(0x4b400000); }

// e^x by range reduction to [-ln 2 / 2, ln 2 / 2] and a polynomial of degree 6; relative error below 2e-7. A NaN passes.
ALWAYS_INLINE F32 exponential(F32 x) {
    x = min(F32::all(88.0f), max(F32::all(-87.0f), x));
    F32 shifted = fmadd(x, F32::all(1.44269504f), F32::all(12582912.0f)), n = shifted - F32::all(12582912.0f);
    F32 r = fmadd(n, F32::all(-0.693359375f), x);
    r = fmadd(n, F32::all(2.12194440e-4f), r);
    F32 y = F32::all(1.0f / 720);
    for (float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = fmadd(y, r, F32::all(term));
    I32 power = (shifted.as<int32_t>() - I32::all(0x4b400000 - 127)) << 23;
    return y * power.as<float>();
}

ALWAYS_INLINE F32 sigmoid(const F32& x) { return F32::all(1.0f) / (F32::all(1.0f) + exponential(-x)); }

ALWAYS_INLINE F32 tanh(const F32& x) {
    F32 power = exponential(x * F32::all(2.0f));
    return F32::all(1.0f) - F32::all(2.0f) / (power + F32::all(1.0f));
}

// x * sigmoid(x).
ALWAYS_INLINE F32 silu(const F32& x) { return x / (F32::all(1.0f) + exponential(-x)); }

// The index of the largest of `width` numbers, the first of equals. Of numbers that are not all finite it means nothing.
inline int64_t argmax(const float* numbers, int64_t width, bool* is_finite) {
    F32 largest = F32::all(-__builtin_inff());
    I32 places = I32::all(0), odd = I32::all(0);
    auto see = [&](const F32& values, int64_t at) {
        I32 larger = less(largest, values);
        largest = select(larger, values, largest);
        places = select(larger, lanes() + I32::all(static_cast<int32_t>(at)), places);
        odd = odd | less(I32::all(0x7f7fffff), values.as<int32_t>() & I32::all(0x7fffffff));  // a NaN is odd too
    };
    int64_t at = 0;
    for (; at + 16 <= width; at += 16) see(load(numbers + at), at);
    if (at < width) {
        alignas(64) float rest[16];
        for (int lane = 0; lane < 16; lane++) rest[lane] = numbers[at + lane < width ? at + lane : at];
        see(load(rest), at);
    }
    *is_finite = !reduce(odd, [](int32_t a, int32_t b) { return a | b; });
    float top = largest_of(largest);
    I32 is_below = less(largest, F32::all(top));
    return *is_finite ? reduce(select(is_below, I32::all(0x7fffffff), places), [](int32_t a, int32_t b) { return a < b ? a : b; }) : 0;
}

}  // namespace native::NATIVE_UNIT
