// A pool of threads that share the tasks of many short jobs. Every thread begins with a range of its own, the same in
// each job, so that it finds in its cache what it has just written; then it takes what others have left. The caller works
// too and waits for tasks, never for threads: one that the system has put to sleep delays nobody unless it holds a task.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include <sched.h>

namespace native {

// Tell the core that its thread waits.
inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

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

    // Between `wake` and `rest` the threads look for work without sleeping.
    void wake() {
        is_awake_.store(1);
        is_awake_.notify_all();
    }
    void rest() { is_awake_.store(0); }

    // Call `function(task)` for every task below `count`, in any order, on any thread.
    template <class Function>
    void run(int64_t count, const Function& function) {
        if (count <= 1 || threads_.empty()) {
            for (int64_t task = 0; task < count; task++) function(task);
            return;
        }
        uint64_t epoch = (epoch_ + 1) & EPOCH_MASK;
        epoch_ = epoch;
        Job& job = jobs_[epoch % NUM_JOBS];
        job.context = &function;
        job.call = [](const void* context, int64_t task) { (*static_cast<const Function*>(context))(task); };
        job.done.store(0, std::memory_order_relaxed);
        int64_t num_threads = ranges_.size();
        for (int64_t index = 0; index < num_threads; index++) {
            uint64_t next = count * index / num_threads, end = count * (index + 1) / num_threads;
            ranges_[index].ticket.store(epoch << 40 | end << 20 | next, std::memory_order_release);
        }
        while (take(0)) {}
        for (int spins = 0; job.done.load(std::memory_order_acquire) < count; spins++) pause(spins);
    }

  private:
    // A ticket holds the job's number, the end of a range of tasks and the next one, so that a late thread that draws
    // one knows from the ticket alone whether it stands for a task.
    static constexpr uint64_t EPOCH_MASK = (1 << 24) - 1, PART_MASK = (1 << 20) - 1;
    static constexpr int NUM_JOBS = 8;

    struct alignas(64) Job {
        const void* context = nullptr;
        void (*call)(const void*, int64_t) = nullptr;
        std::atomic<int64_t> done{0};
    };

    struct alignas(64) Range {
        std::atomic<uint64_t> ticket{0};
    };

    // Do a task of the thread `index`, or else of another; false when there is none.
    bool take(int64_t index) {
        int64_t num_threads = ranges_.size();
        for (int64_t other = 0; other < num_threads; other++)
            if (take_from(ranges_[(index + other) % num_threads])) return true;
        return false;
    }

    bool take_from(Range& range) {
        uint64_t seen = range.ticket.load(std::memory_order_acquire);
        if ((seen & PART_MASK) >= (seen >> 20 & PART_MASK)) return false;
        uint64_t ticket = range.ticket.fetch_add(1, std::memory_order_acq_rel);
        uint64_t task = ticket & PART_MASK, end = ticket >> 20 & PART_MASK;
        if (task >= end) return false;
        Job& job = jobs_[(ticket >> 40) % NUM_JOBS];
        job.call(job.context, static_cast<int64_t>(task));
        job.done.fetch_add(1, std::memory_order_acq_rel);
        return true;
    }

    void serve(int64_t index) {
        int spins = 0;
        while (!is_ending_.load(std::memory_order_relaxed)) {
            if (take(index)) {
                spins = 0;
            } else if (is_awake_.load(std::memory_order_relaxed)) {
                pause(spins++);
            } else {
                is_awake_.wait(0);
            }
        }
    }

    static void pause(int spins) {
        if (spins < 4096)
            relax();
        else
            sched_yield();
    }

    std::vector<Range> ranges_;
    std::vector<std::thread> threads_;
    Job jobs_[NUM_JOBS];
    alignas(64) std::atomic<int> is_awake_{0};
    std::atomic<bool> is_ending_{false};
    uint64_t epoch_ = 0;
};

}  // namespace native
