// Many short jobs on a pool, by themselves and by several pools at once; ends with 1 and a sentence where a job came
// back before all of its tasks were done, or a task was done twice.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "threads.h"

namespace {

// Each task counts itself without an atomic: whoever asked must see it, and no other thread may have touched it.
bool does_all(native::Pool& pool, int64_t num_tasks, int64_t work) {
    std::vector<int64_t> times(num_tasks), sums(num_tasks);
    pool.run(num_tasks, [&](int64_t task) {
        for (int64_t step = 0; step < work * (task % 7); step++) sums[task] += step ^ task;
        times[task]++;
    });
    for (int64_t task = 0; task < num_tasks; task++)
        if (times[task] != 1) {
            std::printf("task %ld of %ld was done %ld times\n", long(task), long(num_tasks), long(times[task]));
            return false;
        }
    return true;
}

// As passes do: woken, some jobs of all sizes, at rest; now and then nothing for longer than a thread looks.
bool passes(int num_threads, int num_passes) {
    native::Pool pool(num_threads);
    for (int pass = 0; pass < num_passes; pass++) {
        pool.wake();
        for (int job = 0; job < 40; job++)
            if (!does_all(pool, (pass * 7 + job * 13) % 61, job % 5 * 40)) return false;
        if (pass % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
        if (!does_all(pool, 2, 0)) return false;
        if (pass % 8 == 4) std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    return true;
}

}  // namespace

int main(int, char** arguments) {
    int num_pools = std::atoi(arguments[1]), num_threads = std::atoi(arguments[2]), num_passes = std::atoi(arguments[3]);
    std::vector<std::thread> callers;
    std::vector<char> are_right(num_pools);
    for (int index = 0; index < num_pools; index++)
        callers.emplace_back([&, index] { are_right[index] = passes(num_threads, num_passes); });
    for (auto& caller : callers) caller.join();
    for (char is_right : are_right)
        if (!is_right) return 1;
    return 0;
}
