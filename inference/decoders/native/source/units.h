// The units of a processor that multiply, and how tiles are configured.
#pragma once
#include <cstdint>

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace native {

// Where products are computed: on the matrix unit, or on the vector unit from pairs of bfloat16 or from float32.
// Python has their names in this order, in library.py.
enum Unit : int { AMX, AVX512_BF16, AVX512_F32 };

// Linux permits AMX to a process that asks.
inline bool request_amx() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILE_DATA = 18;
    return __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILE_DATA) == 0;
}

// By the processor's own word: older compilers do not know the feature by its name.
inline bool has_avx512_fp16() {
    unsigned a, b, c, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1);
}

// The fastest unit of this processor. Intel's vector units multiply pairs of bfloat16 at half the rate of float32.
inline Unit best_unit() {
    if (request_amx()) return AMX;
    return __builtin_cpu_is("intel") && has_avx512_fp16() ? AVX512_F32 : AVX512_BF16;
}

// How many rows of how many bytes each of the eight tiles has.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t count, int64_t width) {
        rows[tile] = static_cast<uint8_t>(count);
        bytes[tile] = static_cast<uint16_t>(width);
    }
    void load() const {
        compiler_barrier();
        _tile_loadconfig(this);
    }
    // The compiler is not told what tiles are loaded from: whatever was written before has to be in memory now.
    static void compiler_barrier() { asm volatile("" ::: "memory"); }
};

}  // namespace native
