// Runs the passes of an image of memory (image.py) on a unit of this processor, and writes their logits to stdout:
//     driver IMAGE UNIT
// It is compiled for another processor than the one that wrote the image; both have the same sizes and order of bytes.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "views.h"

extern "C" {
int native_has_unit(int unit);
void* native_create(const native::ModelView* model, int num_threads, int unit);
int native_forward(void* decoder, const native::PassView* pass);
void native_destroy(void* decoder);
}

namespace {

struct Header {
    int64_t size, num_pointers, num_passes, model;
};

template <class Number>
std::vector<Number> read(FILE* file, int64_t count) {
    std::vector<Number> numbers(count);
    if (fread(numbers.data(), sizeof(Number), count, file) != static_cast<size_t>(count)) exit(3);
    return numbers;
}

}  // namespace

int main(int, char** arguments) {
    int unit = atoi(arguments[2]);
    if (!native_has_unit(unit)) return 2;
    FILE* file = fopen(arguments[1], "rb");
    if (!file) return 3;
    Header header = read<Header>(file, 1)[0];
    auto pointers = read<int64_t>(file, header.num_pointers), passes = read<int64_t>(file, header.num_passes);
    char* image = static_cast<char*>(aligned_alloc(64, header.size));
    if (fread(image, 1, header.size, file) != static_cast<size_t>(header.size)) return 3;
    for (int64_t at : pointers) *reinterpret_cast<char**>(image + at) = image + *reinterpret_cast<int64_t*>(image + at);
    void* decoder = native_create(reinterpret_cast<native::ModelView*>(image + header.model), 2, unit);
    for (int64_t at : passes) {
        auto& pass = *reinterpret_cast<native::PassView*>(image + at);
        native_forward(decoder, &pass);
        fwrite(pass.logits, sizeof(float), pass.num_samples * reinterpret_cast<native::ModelView*>(image + header.model)->vocab, stdout);
    }
    native_destroy(decoder);
    return 0;
}
