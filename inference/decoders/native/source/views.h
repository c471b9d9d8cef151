// What crosses the border from Python: plain structs of pointers, mirrored field by field in library.py.
// Weights and activations are elements: bfloat16, or float32 where the model is wide. All memory belongs to Python.
#pragma once
#include <cstdint>

namespace native {

using bf16 = uint16_t;

enum Target {
    Q, K, V, O, GATE, UP, DOWN, EMBEDDING, HEAD,
    ATTENTION_NORM, ATTENTION_OUT_NORM, MLP_NORM, MLP_OUT_NORM, Q_NORM, K_NORM, LAST_NORM, NUM_TARGETS
};

// A linear [out, in] in the order in which it is read, so that 64 bytes hold a few inputs of 16 outputs.
struct LinearView {
    // By bits. 32: float32 [out / 16][in][16]; 16: bfloat16 [out / 16][in / 2][16][2]; 8: bytes with 128 added
    // [out / 16][in / 4][16][4]; 4 and 5: an input low and the one four behind it high, [out / 16][in / 8][16][4].
    const void* weight;
    // Of 8 bits and fewer, one a group of 32 inputs: float16 [out / 16][in / 32][16]. A weight is its level times the scale
    // and, of 4 and 5 bits, plus the minimum; null: the middle of the levels is zero.
    const uint16_t* scales;
    const uint16_t* mins;
    // Of 5 bits the fifth: [out / 16][in / 32][16][4], where bit n of a byte is of the n-th four inputs of a group.
    const uint8_t* fifths;
    // What the sixteen levels of 4 bits stand for, with 128 added, in weights without minima. Null: for themselves.
    const uint8_t* codes;
    int64_t bits, out, in;
};

// Of LayerNorm the bias is there, of a root mean square none. A null weight norms nothing.
struct NormView {
    const float* weight;
    const float* bias;
};

// Norms go before a block, behind it, or both; those of queries and keys are [heads * head_dim]. Biases are elements [out],
// null where there is none, as are the tables of a layer that does not turn.
struct LayerView {
    NormView attention_norm, attention_out_norm, mlp_norm, mlp_out_norm, q_norm, k_norm;
    LinearView qkv, o, gate_up, down;
    const void *qkv_bias, *o_bias, *gate_up_bias, *down_bias;
    const float* cos;  // [positions, rotary_dim]
    const float* sin;
    int64_t window;  // 0: none
};

enum Activation : int64_t { SILU, GELU_TANH, GELU };

struct ModelView {
    int64_t hidden, num_layers, num_heads, num_kv_heads, head_dim, inner, vocab, block_size, rotary_dim;
    int64_t is_wide, is_gated, is_parallel, is_interleaved, norms_whole, activation;
    float norm_eps, attention_scale, score_cap, logit_cap, embedding_multiplier, residual_multiplier, logit_multiplier;  // caps 0: none
    const void* embedding;
    NormView norm;
    LinearView head;
    const void* head_bias;
    const LayerView* layers;
};

enum GateKind : int64_t { ARROW, FLOW, RAMOLE };

// How a row weighs the parts of a blend, of which one has the ranks from the end of the one before it to `ends`. Float32:
// projection [layers][columns][in], of RAMOLE keys [layers][columns][rank], and bias [layers][parts], null where there is
// none. The `top_k` largest scores are divided by `temperature` and go through the softmax; 0: all.
struct GateView {
    const float* projection;
    const float* keys;
    const float* bias;
    const int64_t* ends;
    int64_t kind, columns, parts, top_k;
    float temperature;
};

// One adapter's pair for one target: a [layers][rank][in], b [layers][rank / 2][out][2] or, of float32,
// [layers][rank][out]; the rank is even, and 0 where there is none.
// The embedding, the head and the last norm are one layer, and the embedding's a is [vocab][rank], for it is looked up.
// `scale` [layers][out] multiplies the adapted output (DoRA), and `bias` [layers][out] is added to it; null: none. A norm has
// a bias alone. A blend's pair has a gate.
struct PairView {
    const void* a;
    const void* b;
    const float* scale;
    const float* bias;
    const GateView* gate;
    int64_t rank;
};

struct AdapterView {
    PairView targets[NUM_TARGETS];
};

// One forward pass over `rows` rows, through all layers or through those of a stage. A row's `table` is where its block table begins in `tables`.
struct PassView {
    int64_t rows, num_samples, num_hidden;
    const int64_t* token_ids;
    const int64_t* positions;
    const int64_t* cache_slots;
    const int64_t* adapters;  // index into `adapter_views`, -1: the base
    const int64_t* table_starts;
    const int64_t* tables;
    const int64_t* sample_rows;
    const int64_t* hidden_rows;
    const AdapterView* const* adapter_views;
    void* const* keys;    // per layer [block][kv head][head_dim / 2][block_size][2], of float32 [head_dim][block_size]
    void* const* values;  // per layer [block][kv head][block_size / 2][head_dim][2], of float32 [block_size][head_dim]
    float* logits;        // [num_samples, vocab]
    float* states;        // [num_hidden, hidden]: what the head sees of the hidden rows
    float* coefficients;  // [rows][MAX_GATED + 1]: sums of a blend's coefficients over layers and targets, and of how many; or null
    const void* stream;   // elements [rows, hidden]: the residual stream that the layers before have left; null: the tokens' embeddings
    void* left;           // the same behind the last layer here, for those behind it; null: nobody wants it
    const int64_t* interrupts;  // above `acknowledged` they end the pass; null: nothing does
    int64_t acknowledged;
};

}  // namespace native
