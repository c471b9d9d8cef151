// A pool of threads that share the tasks of many short jobs, on a machine that other programs use too. Every thread begins
// with a range of its own, the same in each job, so that it finds in its cache what it has just written; then it takes
// what others have left. The caller works too and waits for tasks, never for threads: one that the system has put aside
// delays nobody unless it holds a task.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace native {

// Tell the core that its thread waits.
inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A number that threads wait for. Who waits looks at it for some microseconds, for the next job is near, and then sleeps,
// which leaves the core to whoever is waited for. std::atomic's own waiting yields in between: where another program
// wants the core that gives away a slice of time, of which a thread that sleeps keeps the rest.
class Signal {
  public:
    int load() const { return value_.load(); }
    void store(int value) { value_.store(value); }

    // Add and give the sum; tells nobody.
    int add(int amount) { return value_.fetch_add(amount) + amount; }

    // Wake `count` of those who sleep: each costs the waker a microsecond or two.
    void tell(int count) {
        if (num_asleep_.load() == 0) return;
#if defined(__linux__)
        syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
#else
        count == 1 ? value_.notify_one() : value_.notify_all();
#endif
    }

    // Until the number is another one than `seen`; a sleeper may miss one that it is not told of.
    void wait(int seen) {
        if (looks_other(seen)) return;
        num_asleep_.fetch_add(1);
#if defined(__linux__)
        syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
        value_.wait(seen);
#endif
        num_asleep_.fetch_sub(1);
    }

  private:
    static constexpr std::chrono::microseconds LOOK{20};

    bool looks_other(int seen) const {
        auto end = std::chrono::steady_clock::now() + LOOK;
        do {
            for (int times = 0; times < 16; times++) {
                if (value_.load(std::memory_order_acquire) != seen) return true;
                relax();
            }
        } while (std::chrono::steady_clock::now() < end);
        return false;
    }

    std::atomic<int> value_{0}, num_asleep_{0};
};

class Pool {
  public:
    explicit Pool(int num_threads) : ranges_(num_threads) {
        for (int index = 1; index < num_threads; index++) threads_.emplace_back([this, index] { serve(index); });
    }

    ~Pool() {
        is_ending_ = true;
        wake();
        for (auto& thread : threads_) thread.join();
    }

    // A job will follow: the threads may as well wake meanwhile.
    void wake() { announce(threads_.size()); }

    // Call `function(task)` for every task below `count`, in any order, on any thread.
    template <class Function>
    void run(int64_t count, const Function& function) {
        if (count <= 1 || threads_.empty()) {
            for (int64_t task = 0; task < count; task++) function(task);
            return;
        }
        context_ = &function;
        call_ = [](const void* context, int64_t task) { (*static_cast<const Function*>(context))(task); };
        left_.store(static_cast<int>(count));
        int64_t num_threads = ranges_.size();
        for (int64_t index = 0; index < num_threads; index++) {
            uint64_t next = count * index / num_threads, end = count * (index + 1) / num_threads;
            ranges_[index].ticket.store(end << 32 | next, std::memory_order_release);
        }
        announce(std::min<int64_t>(count, num_threads) - 1);
        while (take(0)) {}
        while (int left = left_.load()) left_.wait(left);
    }

  private:
    // A ticket holds the end of a range of tasks and the next one. Who draws one that stands for a task holds the job
    // with it: no other begins before that task is done.
    struct alignas(64) Range {
        std::atomic<uint64_t> ticket{0};
    };

    void announce(int64_t num_threads) {
        announced_.add(1);
        announced_.tell(static_cast<int>(num_threads));
    }

    static uint64_t task_of(uint64_t ticket) { return ticket & 0xffffffff; }
    static bool is_task(uint64_t ticket) { return task_of(ticket) < ticket >> 32; }

    // Do a task of the thread `index`, or else of another; false when there is none.
    bool take(int64_t index) {
        int64_t num_threads = ranges_.size();
        for (int64_t other = 0; other < num_threads; other++)
            if (take_from(ranges_[(index + other) % num_threads])) return true;
        return false;
    }

    bool take_from(Range& range) {
        if (!is_task(range.ticket.load(std::memory_order_acquire))) return false;
        uint64_t ticket = range.ticket.fetch_add(1, std::memory_order_acq_rel);
        if (!is_task(ticket)) return false;
        call_(context_, static_cast<int64_t>(task_of(ticket)));
        if (left_.add(-1) == 0) left_.tell(1);
        return true;
    }

    void serve(int64_t index) {
        while (!is_ending_) {
            int announced = announced_.load();
            if (!take(index)) announced_.wait(announced);
        }
    }

    std::vector<Range> ranges_;
    std::vector<std::thread> threads_;
    const void* context_ = nullptr;
    void (*call_)(const void*, int64_t) = nullptr;
    alignas(64) Signal left_;
    alignas(64) Signal announced_;
    std::atomic<bool> is_ending_{false};
};

}  // namespace native
