// Products patch by patch, while the weights of the next ones come from memory.
#pragma once
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

}  // namespace native::NATIVE_UNIT
