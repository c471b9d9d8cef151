// The C interface that Python calls.
#include "decoder.h"

using namespace native;

extern "C" {

int native_best_unit() { return best_unit(); }

void* native_create(const ModelView* model, int num_threads, int unit) {
    return new Decoder(*model, num_threads, unit < 0 ? best_unit() : static_cast<Unit>(unit));
}

int native_unit(const void* decoder) { return static_cast<const Decoder*>(decoder)->unit(); }

int native_forward(void* decoder, const PassView* pass) { return static_cast<Decoder*>(decoder)->forward(*pass); }

void native_argmax(
    void* decoder, const float* logits, int64_t rows, int64_t stride, int64_t width, int64_t* indices, bool* are_finite) {
    static_cast<Decoder*>(decoder)->argmax(logits, rows, stride, width, indices, are_finite);
}

void native_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

}
