// How fast a processor multiplies at most: every thread repeats one instruction on its registers, over so many sums that
// none waits for another. Compiled for one instruction, as `g++ -DFMA_256`; `peak THREADS SECONDS` prints operations a
// second, a multiplication and an addition being two. Nothing comes from memory, so no decoder reaches this.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(AMX_BF16)
#include <sys/syscall.h>
#include <unistd.h>
#define SUMS 4
#else
#define SUMS 12
#endif

// STEP adds to one of the sums and does OPERATIONS. Its factors are in registers 14 and 15 on x86, in tiles 4 and 6 of a
// matrix unit, in registers 30 and 31 on ARM.
#if defined(AMX_BF16)
#define STEP(sum) "tdpbf16ps %%tmm6, %%tmm4, %%tmm" #sum "\n"
constexpr double OPERATIONS = 2 * 16 * 16 * 32;
#elif defined(DPBF16_512)
#define STEP(sum) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #sum "\n"
constexpr double OPERATIONS = 2 * 32;
#elif defined(DPBUSD_512)
#define STEP(sum) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #sum "\n"
constexpr double OPERATIONS = 2 * 64;
#elif defined(FMA_512)
#define STEP(sum) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #sum "\n"
constexpr double OPERATIONS = 2 * 16;
#elif defined(DPBUSD_256)
#define STEP(sum) "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" #sum "\n"
constexpr double OPERATIONS = 2 * 32;
#elif defined(MADDUBS_512)
#define STEP(sum) \
    "vpmaddubsw %%zmm14, %%zmm15, %%zmm13\n vpmaddwd %%zmm12, %%zmm13, %%zmm13\n" \
    "vpaddd %%zmm13, %%zmm" #sum ", %%zmm" #sum "\n"
constexpr double OPERATIONS = 2 * 64;
#elif defined(MADDUBS_256)
#define STEP(sum) \
    "vpmaddubsw %%ymm14, %%ymm15, %%ymm13\n vpmaddwd %%ymm12, %%ymm13, %%ymm13\n" \
    "vpaddd %%ymm13, %%ymm" #sum ", %%ymm" #sum "\n"
constexpr double OPERATIONS = 2 * 32;
#elif defined(FMA_256)
#define STEP(sum) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #sum "\n"
constexpr double OPERATIONS = 2 * 8;
#elif defined(MULPS)
#define STEP(sum) "movaps %%xmm14, %%xmm13\n mulps %%xmm15, %%xmm13\n addps %%xmm13, %%xmm" #sum "\n"
constexpr double OPERATIONS = 2 * 4;
#elif defined(BFMMLA)
#define STEP(sum) ".arch armv8.6-a\n bfmmla v" #sum ".4s, v30.8h, v31.8h\n"
constexpr double OPERATIONS = 2 * 16;
#elif defined(SDOT)
#define STEP(sum) ".arch armv8.2-a+dotprod\n sdot v" #sum ".4s, v30.16b, v31.16b\n"
constexpr double OPERATIONS = 2 * 16;
#elif defined(FMLA)
#define STEP(sum) "fmla v" #sum ".4s, v30.4s, v31.4s\n"
constexpr double OPERATIONS = 2 * 4;
#else
#error "name an instruction, as -DFMA_256"
#endif

#define FOUR STEP(0) STEP(1) STEP(2) STEP(3)
#if SUMS == 4
#define ALL FOUR FOUR FOUR
#else
#define ALL FOUR STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)
#endif
constexpr int STEPS = 4 * 12;  // of one round
constexpr int ROUNDS = 2000;   // between two looks at the clock

#if defined(__x86_64__)
#define CLOBBERED \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#else
#define CLOBBERED "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v30", "v31"
#endif

// Ones as float32 and as pairs of bfloat16: what is multiplied should be plain numbers, and no sum a denormal one.
alignas(64) const uint32_t ONES[16] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80,
                                       0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};

#if defined(AMX_BF16)
// All eight tiles have 16 rows of 64 bytes.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
#endif

static void prepare() {
#if defined(AMX_BF16)
    static const TileConfig config;
    asm volatile("ldtilecfg %0\n tileloadd (%1,%2,1), %%tmm4\n tileloadd (%1,%2,1), %%tmm6" : : "m"(config), "r"(ONES), "r"(0L) : "memory");
#elif defined(MULPS)
    asm volatile("movaps (%0), %%xmm14\n movaps (%0), %%xmm15" : : "r"(ONES) : CLOBBERED);
#elif defined(__x86_64__)
    asm volatile("vbroadcastss (%0), %%ymm12\n vbroadcastss (%0), %%ymm14\n vbroadcastss (%0), %%ymm15" : : "r"(ONES) : CLOBBERED);
#if defined(DPBF16_512) || defined(DPBUSD_512) || defined(FMA_512) || defined(MADDUBS_512)
    asm volatile("vmovaps (%0), %%zmm12\n vmovaps (%0), %%zmm14\n vmovaps (%0), %%zmm15" : : "r"(ONES) : CLOBBERED);
#endif
#else
    asm volatile("ldr q30, [%0]\n ldr q31, [%0]" : : "r"(ONES) : CLOBBERED);
#endif
}

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Operations of one thread until `end`.
static double work(double end) {
    int64_t rounds = 0;
    do {
        prepare();
        for (int round = 0; round < ROUNDS; round++) asm volatile(ALL ALL ALL ALL : : : CLOBBERED);
        rounds += ROUNDS;
    } while (seconds() < end);
#if defined(__x86_64__) && !defined(MULPS)
    asm volatile("vzeroupper" : : : CLOBBERED);
#endif
    return static_cast<double>(rounds) * STEPS * OPERATIONS;
}

int main(int count, char** words) {
    if (count != 3) return std::fprintf(stderr, "peak THREADS SECONDS\n"), 2;
#if defined(AMX_BF16)
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILE_DATA = 18;  // Linux permits AMX to a process that asks
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILE_DATA)) return std::fprintf(stderr, "no AMX here\n"), 1;
#endif
    int num_threads = std::atoi(words[1]);
    double lasting = std::atof(words[2]);
    work(seconds() + lasting / 10);  // until the clock of the processor has risen
    std::vector<double> rates(num_threads);
    std::vector<std::thread> threads;
    double end = seconds() + lasting;
    for (double& rate : rates)
        threads.emplace_back([&rate, end] {
            double began = seconds(), operations = work(end);
            rate = operations / (seconds() - began);
        });
    for (std::thread& thread : threads) thread.join();
    double total = 0;
    for (double rate : rates) total += rate;
    std::printf("%.0f\n", total);
}
