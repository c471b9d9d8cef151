// The units of processors that compute, and which of them this one has. Each is a variant of the whole decoder, compiled
// with flags of its own (build.py), so that one library runs on every processor of its architecture.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace native {

// From the most able to the one that any processor has. Python has their names in this order, in library.py.
enum Unit : int { AMX, AVX512_BF16, AVX512_VNNI, AVX512, AVX_VNNI, AVX2, NEON_BF16, NEON_DOT, NEON, PORTABLE };
constexpr int NUM_UNITS = PORTABLE + 1;

#if defined(__x86_64__)

// By the processor's own word: older compilers do not know every feature by its name.
inline bool has_bit(unsigned leaf, unsigned subleaf, int output, int bit) {
    unsigned words[4] = {};
    return __get_cpuid_count(leaf, subleaf, &words[0], &words[1], &words[2], &words[3]) && (words[output] >> bit & 1);
}

// Linux permits AMX to a process that asks.
inline bool request_amx() {
#if defined(__linux__)
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILE_DATA = 18;
    return has_bit(7, 0, 3, 22) && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILE_DATA) == 0;
#else
    return false;
#endif
}

// `__builtin_cpu_supports` of AVX2 and AVX512 says too whether the system saves their registers.
inline bool has_unit(Unit unit) {
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    bool bf16 = vnni && has_bit(7, 1, 0, 5);
    switch (unit) {
        case AMX: return bf16 && request_amx();
        case AVX512_BF16: return bf16;
        case AVX512_VNNI: return vnni;
        case AVX512: return avx512;
        case AVX_VNNI: return avx2 && has_bit(7, 1, 0, 4);
        case AVX2: return avx2;
        default: return unit == PORTABLE;
    }
}

// Intel's vector units multiply pairs of bfloat16 at half the rate of float32.
inline bool is_slower_than_next(Unit unit) {
    return unit == AVX512_BF16 && __builtin_cpu_is("intel") && has_bit(7, 0, 3, 23);
}

#elif defined(__aarch64__)

#if defined(__APPLE__)
inline bool has_feature(const char* name) {
    int is_there = 0;
    size_t size = sizeof(is_there);
    return sysctlbyname(name, &is_there, &size, nullptr, 0) == 0 && is_there;
}
inline bool has_dot() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
inline bool has_bf16() { return has_feature("hw.optional.arm.FEAT_BF16") && has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__linux__)
inline bool has_dot() { return getauxval(AT_HWCAP) >> 20 & 1; }
inline bool has_bf16() { return (getauxval(AT_HWCAP2) >> 13 & 1) && (getauxval(AT_HWCAP2) >> 14 & 1); }
#else
inline bool has_dot() { return false; }
inline bool has_bf16() { return false; }
#endif

inline bool has_unit(Unit unit) {
    switch (unit) {
        case NEON_BF16: return has_dot() && has_bf16();
        case NEON_DOT: return has_dot();
        default: return unit == NEON || unit == PORTABLE;
    }
}

inline bool is_slower_than_next(Unit) { return false; }

#else

inline bool has_unit(Unit unit) { return unit == PORTABLE; }
inline bool is_slower_than_next(Unit) { return false; }

#endif

}  // namespace native
