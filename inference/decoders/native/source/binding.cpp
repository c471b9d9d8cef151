// The C interface that Python calls. A decoder is made of the unit that is asked for, or of this processor's best.
#include <iterator>

#include "interface.h"
#include "units.h"

using namespace native;

// build.py names the units that the library has: NATIVE_UNITS(each) is each(AVX2, avx2) and so on, the best first.
#define DECLARE(unit, name) \
    namespace native::name { extern const Functions functions; }
NATIVE_UNITS(DECLARE)

namespace {

struct Variant {
    Unit unit;
    const Functions* functions;
};

#define LIST(unit, name) {unit, &native::name::functions},
const Variant VARIANTS[] = {NATIVE_UNITS(LIST)};

const Variant* variant_of(int unit) {
    for (const Variant& variant : VARIANTS)
        if (variant.unit == unit && has_unit(variant.unit)) return &variant;
    return nullptr;
}

const Variant& best() {
    static const Variant& found = [&]() -> const Variant& {
        for (const Variant& variant : VARIANTS)
            if (has_unit(variant.unit) && !is_slower_than_next(variant.unit)) return variant;
        return VARIANTS[std::size(VARIANTS) - 1];
    }();
    return found;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int native_has_unit(int unit) { return variant_of(unit) != nullptr; }

int native_best_unit() { return best().unit; }

// Null where the library or the processor lacks the unit.
void* native_create(const ModelView* model, int num_threads, int unit) {
    const Variant* variant = variant_of(unit);
    return variant ? variant->functions->create(*model, num_threads) : nullptr;
}

int native_forward(void* decoder, const PassView* pass) { return static_cast<AnyDecoder*>(decoder)->forward(*pass); }

void native_argmax(
    void* decoder, const float* logits, int64_t rows, int64_t stride, int64_t width, int64_t* indices, bool* are_finite) {
    static_cast<AnyDecoder*>(decoder)->argmax(logits, rows, stride, width, indices, are_finite);
}

void native_destroy(void* decoder) { delete static_cast<AnyDecoder*>(decoder); }

// Null where the library or the processor lacks the unit.
const Training* native_training(int unit) {
    const Variant* variant = variant_of(unit);
    return variant ? &variant->functions->training : nullptr;
}

}
#pragma GCC visibility pop
