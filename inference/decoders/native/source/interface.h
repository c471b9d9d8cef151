// What every unit has: a decoder, and the operators of training.
#pragma once
#include "views.h"

namespace native {

class AnyDecoder {
  public:
    virtual ~AnyDecoder() = default;

    // False when it was interrupted: then nothing of it counts.
    virtual bool forward(const PassView& pass) = 0;

    // For each row of logits the index of the largest, the first of equals, and whether all are finite.
    virtual void argmax(const float* logits, int64_t rows, int64_t stride, int64_t width, int64_t* indices, bool* are_finite) = 0;
};

// See training.h.
struct Training {
    void (*rms_norm)(const bf16* rows, const bf16* weight, bf16* out, float* inverse, int64_t n, int64_t width, float eps);
    void (*rms_norm_backward)(const bf16* grad, const bf16* rows, const bf16* weight, const float* inverse, bf16* out, int64_t n, int64_t width);
    void (*swiglu)(const bf16* gate_up, bf16* out, int64_t n, int64_t inner);
    void (*swiglu_backward)(const bf16* grad, const bf16* gate_up, bf16* out, int64_t n, int64_t inner);
    void (*rope)(const bf16* rows, int64_t stride, const bf16* cos, const bf16* sin, bf16* out, int64_t n, int64_t heads, int64_t dim, float turn);
    void (*softmax)(bf16* scores, int64_t n, int64_t length, float scale);
    void (*softmax_backward)(bf16* grad, const bf16* probabilities, int64_t n, int64_t length, float scale);
};

struct Functions {
    AnyDecoder* (*create)(const ModelView& model, int num_threads);
    Training training;
};

}  // namespace native
