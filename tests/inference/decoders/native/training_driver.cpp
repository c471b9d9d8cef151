// Calls an operator of training on a unit of this processor: training_driver UNIT < parts > parts
// Before the parts stand the operator's number and theirs; before each its length in bytes. A part is an array or, of the
// last ones, a number. What comes out are the arrays as the operator left them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "interface.h"

extern "C" const native::Training* native_training(int unit);

namespace {

using native::bf16;

std::vector<std::vector<char>> parts;

int64_t read_number() {
    int64_t number = 0;
    if (fread(&number, sizeof(number), 1, stdin) != 1) exit(3);
    return number;
}

template <class Number>
Number* array(size_t index) {
    return reinterpret_cast<Number*>(parts[index].data());
}

template <class Number>
Number number(size_t index) {
    return *array<Number>(index);
}

void call(const native::Training& on, int64_t which) {
    auto numbers = [](size_t index) { return array<bf16>(index); };
    auto whole = [](size_t index) { return number<int64_t>(index); };
    switch (which) {
        case 0: return on.rms_norm(numbers(0), numbers(1), numbers(2), array<float>(3), whole(4), whole(5), number<float>(6));
        case 1: return on.rms_norm_backward(numbers(0), numbers(1), numbers(2), array<float>(3), numbers(4), whole(5), whole(6));
        case 2: return on.swiglu(numbers(0), numbers(1), whole(2), whole(3));
        case 3: return on.swiglu_backward(numbers(0), numbers(1), numbers(2), whole(3), whole(4));
        case 4: return on.rope(numbers(0), whole(1), numbers(2), numbers(3), numbers(4), whole(5), whole(6), whole(7), number<float>(8));
        case 5: return on.softmax(numbers(0), whole(1), whole(2), number<float>(3));
        case 6: return on.softmax_backward(numbers(0), numbers(1), whole(2), whole(3), number<float>(4));
        default: exit(4);
    }
}

}  // namespace

int main(int, char** arguments) {
    const native::Training* training = native_training(atoi(arguments[1]));
    if (!training) return 2;
    int64_t which = read_number(), count = read_number();
    for (int64_t index = 0; index < count; index++) {
        parts.emplace_back(read_number());
        if (fread(parts[index].data(), 1, parts[index].size(), stdin) != parts[index].size()) return 3;
    }
    call(*training, which);
    for (const auto& part : parts) fwrite(part.data(), 1, part.size(), stdout);
    return 0;
}
