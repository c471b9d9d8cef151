// The decoder and the operators of training for one unit, whose name and flags build.py gives.
#include "decoder.h"
#include "training.h"

namespace native::NATIVE_UNIT {

static AnyDecoder* create(const ModelView& model, int num_threads) {
    if (model.is_wide) return new Decoder<float>(model, num_threads);
    return new Decoder<bf16>(model, num_threads);
}

extern const Functions functions;
const Functions functions = {
    create, {rms_norm, rms_norm_backward, swiglu, swiglu_backward, rope, softmax_rows, softmax_rows_backward}};

}  // namespace native::NATIVE_UNIT
