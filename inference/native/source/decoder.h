// One forward pass of a Llama-shaped decoder: nine short jobs a layer, shared by the threads of a pool.
#pragma once
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "attention.h"
#include "lora.h"
#include "threads.h"

namespace native {

class Decoder {
  public:
    Decoder(const ModelView& model, int num_threads, bool may_use_matrix_unit)
        : model_(model),
          queries_(model.num_heads * model.head_dim),
          keys_(model.num_kv_heads * model.head_dim),
          qkv_width_(queries_ + 2 * keys_),
          cache_{model.num_kv_heads, model.head_dim, model.block_size},
          num_threads_(num_threads),
          has_matrix_unit_(may_use_matrix_unit && ask_for_matrix_unit()),
          pool_(num_threads) {}

    bool has_matrix_unit() const { return has_matrix_unit_; }

    void forward(const PassView& pass) {
        pool_.wake();
        prepare(pass);
        embed(pass);
        for (int64_t layer = 0; layer < model_.num_layers; layer++) run_layer(pass, layer);
        if (pass.num_samples) predict(pass);
        pool_.rest();
    }

  private:
    static constexpr int64_t WIDEST = 10;  // blocks of outputs in a task

    // Rows of one adapter, which are worked on together.
    struct Chunk {
        int64_t adapter, begin, end;
    };

    void prepare(const PassView& pass) {
        order_.resize(pass.rows);
        std::iota(order_.begin(), order_.end(), 0);
        std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) { return pass.adapters[a] < pass.adapters[b]; });
        chunks_.clear();
        for (int64_t place = 0; place < pass.rows; place++) {
            int64_t adapter = pass.adapters[order_[place]];
            bool fits = !chunks_.empty() && chunks_.back().adapter == adapter && place - chunks_.back().begin < CHUNK / 2;
            if (!fits) chunks_.push_back({adapter, place, place});
            chunks_.back().end = place + 1;
        }
        for (auto [buffer, width] : {std::pair{&hidden_, model_.hidden}, {&normed_, model_.hidden}, {&qkv_, qkv_width_},
                                     {&attended_, queries_}, {&added_, model_.hidden}, {&gate_up_, 2 * model_.inner}, {&inner_, model_.inner}})
            buffer->resize(std::max<size_t>(buffer->size(), pass.rows * width));
    }

    void embed(const PassView& pass) {
        by_chunk([&](const Chunk& chunk) {
            for (int64_t place = chunk.begin; place < chunk.end; place++) {
                int64_t row = order_[place], width = model_.hidden;
                std::memcpy(hidden_.data() + row * width, model_.embedding + pass.token_ids[row] * width, width * sizeof(bf16));
                const PairView* pair = pair_of(pass, row, EMBEDDING);
                if (pair) adapt_embedding(*pair, pass.token_ids[row], hidden_.data() + row * width, width);
                normalise(row, model_.layers[0].attention_norm);
            }
        });
    }

    void run_layer(const PassView& pass, int64_t layer) {
        const LayerView& weights = model_.layers[layer];
        const bf16* next_norm = layer + 1 < model_.num_layers ? model_.layers[layer + 1].attention_norm : model_.norm;
        apply(weights.qkv, normed_.data(), pass.rows, qkv_.data());
        by_chunk([&](const Chunk& chunk) { place_keys(pass, layer, chunk); });
        attend(pass, layer);
        apply(weights.o, attended_.data(), pass.rows, added_.data());
        by_chunk([&](const Chunk& chunk) {
            adapt_rows(pass, O, layer, chunk, attended_.data(), queries_, added_.data(), model_.hidden, 0);
            for (int64_t place = chunk.begin; place < chunk.end; place++) add_and_normalise(order_[place], weights.mlp_norm);
        });
        apply(weights.gate_up, normed_.data(), pass.rows, gate_up_.data());
        by_chunk([&](const Chunk& chunk) { activate(pass, layer, chunk); });
        apply(weights.down, inner_.data(), pass.rows, added_.data());
        by_chunk([&](const Chunk& chunk) {
            adapt_rows(pass, DOWN, layer, chunk, inner_.data(), model_.inner, added_.data(), model_.hidden, 0);
            for (int64_t place = chunk.begin; place < chunk.end; place++) add_and_normalise(order_[place], next_norm);
        });
    }

    // Logits of the sampled rows, which the last layer has left normalised.
    void predict(const PassView& pass) {
        int64_t width = model_.hidden;
        sampled_.resize(std::max<size_t>(sampled_.size(), pass.num_samples * width));
        for (int64_t at = 0; at < pass.num_samples; at++)
            std::memcpy(sampled_.data() + at * width, normed_.data() + pass.sample_rows[at] * width, width * sizeof(bf16));
        multiply_all(model_.head, sampled_.data(), pass.num_samples, {nullptr, pass.logits, model_.vocab});
        pool_.run(pass.num_samples, [&](int64_t at) {
            const PairView* pair = pair_of(pass, pass.sample_rows[at], HEAD);
            const bf16* row = sampled_.data() + at * width;
            float* logits = pass.logits + at * model_.vocab;
            if (pair) adapt(*pair, 0, &row, &logits, 1, width, model_.vocab);
        });
    }

    // What the adapter of `row` does to `target`, or null.
    static const PairView* pair_of(const PassView& pass, int64_t row, Target target) {
        if (pass.adapters[row] < 0) return nullptr;
        const PairView& pair = pass.adapter_views[pass.adapters[row]]->targets[target];
        return pair.rank ? &pair : nullptr;
    }

    void apply(const LinearView& linear, const bf16* rows, int64_t count, bf16* out) {
        multiply_all(linear, rows, count, {out, nullptr, linear.out});
    }

    void multiply_all(const LinearView& linear, const bf16* data, int64_t count, Out out) {
        Rows rows = linear.bits == 8 ? quantise_all(data, count, linear.in) : Rows{data, count, linear.in * 2};
        // Stripes as wide as let the threads share them evenly: the wider, the more often a row is read from the cache.
        int64_t blocks = linear.out / BLOCK, rounds = (blocks + WIDEST * num_threads_ - 1) / (WIDEST * num_threads_);
        int64_t step = (blocks + rounds * num_threads_ - 1) / (rounds * num_threads_);
        step += step % 2;
        pool_.run((blocks + step - 1) / step, [&](int64_t task) {
            multiply(rows, linear, task * step, std::min(blocks, (task + 1) * step), out, has_matrix_unit_);
        });
    }

    Rows quantise_all(const bf16* data, int64_t count, int64_t width) {
        quantised_.resize(std::max<size_t>(quantised_.size(), (count + 15) / 16 * 32 * width));
        scales_.resize(std::max<size_t>(scales_.size(), count));
        Rows rows{quantised_.data(), count, width, scales_.data()};
        pool_.run((count + CHUNK - 1) / CHUNK, [&](int64_t task) {
            for (int64_t row = task * CHUNK; row < std::min(count, (task + 1) * CHUNK); row++) {
                int8_t* high = quantised_.data() + (row / 16 * 32 + row % 16) * width;
                scales_[row] = quantise(data + row * width, high, high + 16 * width, width);
            }
        });
        return rows;
    }

    template <class Function>
    void by_chunk(const Function& function) {
        pool_.run(chunks_.size(), [&](int64_t index) { function(chunks_[index]); });
    }

    // Add the adapter's update of `target` to columns from `to` on of the chunk's rows in `outs`.
    void adapt_rows(const PassView& pass, Target target, int64_t layer, const Chunk& chunk, const bf16* rows, int64_t stride, bf16* outs,
                    int64_t width, int64_t to) {
        const PairView* pair = pair_of(pass, order_[chunk.begin], target);
        if (!pair) return;
        const bf16* inputs[CHUNK];
        bf16* outputs[CHUNK];
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            inputs[place - chunk.begin] = rows + order_[place] * stride;
            outputs[place - chunk.begin] = outs + order_[place] * width + to;
        }
        auto [in, out] = shape_of(target);
        adapt(*pair, layer, inputs, outputs, chunk.end - chunk.begin, in, out);
    }

    std::pair<int64_t, int64_t> shape_of(Target target) const {
        switch (target) {
            case Q: return {model_.hidden, queries_};
            case K:
            case V: return {model_.hidden, keys_};
            case O: return {queries_, model_.hidden};
            case DOWN: return {model_.inner, model_.hidden};
            default: return {model_.hidden, model_.inner};
        }
    }

    void place_keys(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const bf16* rows = normed_.data();
        adapt_rows(pass, Q, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, 0);
        adapt_rows(pass, K, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, queries_);
        adapt_rows(pass, V, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, queries_ + keys_);
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            int64_t row = order_[place];
            bf16* parts = qkv_.data() + row * qkv_width_;
            for (int64_t at = 0; at < queries_ + keys_; at += model_.head_dim) rotate(parts + at, pass.positions[row]);
            write_cache(cache_, pass.keys[layer], pass.values[layer], pass.cache_slots[row], parts + queries_, parts + queries_ + keys_);
        }
    }

    // Turn one head [head_dim] by the angles of its position, its halves being the two coordinates.
    void rotate(bf16* head, int64_t position) const {
        int64_t half = model_.head_dim / 2;
        const float* cos = model_.cos + position * model_.head_dim;
        const float* sin = model_.sin + position * model_.head_dim;
        for (int64_t at = 0; at < half; at += 16) {
            __m512 x = load(head + at), y = load(head + half + at);
            __m512 c = _mm512_loadu_ps(cos + at), s = _mm512_loadu_ps(sin + at);
            store(head + at, _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
            store(head + half + at, _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
        }
    }

    void attend(const PassView& pass, int64_t layer) {
        // Few rows are shared out by the head, many by the row.
        if (pass.rows < 2 * num_threads_)
            pool_.run(pass.rows * model_.num_kv_heads, [&](int64_t task) {
                attend_head(pass, layer, task / model_.num_kv_heads, task % model_.num_kv_heads);
            });
        else
            pool_.run(pass.rows, [&](int64_t row) {
                for (int64_t kv_head = 0; kv_head < model_.num_kv_heads; kv_head++) attend_head(pass, layer, row, kv_head);
            });
    }

    void attend_head(const PassView& pass, int64_t layer, int64_t row, int64_t kv_head) {
        static thread_local HeadAttention worker;
        int64_t group = model_.num_heads / model_.num_kv_heads, at = kv_head * group * model_.head_dim;
        int64_t context = pass.positions[row] + 1;
        Context seen{pass.tables + pass.table_starts[row], model_.window ? std::max<int64_t>(0, context - model_.window) : 0, context};
        worker.attend(cache_, group, qkv_.data() + row * qkv_width_ + at, pass.keys[layer], pass.values[layer], kv_head, seen,
                      attended_.data() + row * queries_ + at);
    }

    void activate(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const bf16* rows = normed_.data();
        adapt_rows(pass, GATE, layer, chunk, rows, model_.hidden, gate_up_.data(), 2 * model_.inner, 0);
        adapt_rows(pass, UP, layer, chunk, rows, model_.hidden, gate_up_.data(), 2 * model_.inner, model_.inner);
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            const bf16* gate = gate_up_.data() + order_[place] * 2 * model_.inner;
            bf16* inner = inner_.data() + order_[place] * model_.inner;
            for (int64_t at = 0; at < model_.inner; at += 16)
                store(inner + at, _mm512_mul_ps(silu(load(gate + at)), load(gate + model_.inner + at)));
        }
    }

    void add_and_normalise(int64_t row, const bf16* weight) {
        bf16* hidden = hidden_.data() + row * model_.hidden;
        const bf16* added = added_.data() + row * model_.hidden;
        for (int64_t at = 0; at < model_.hidden; at += 16) store(hidden + at, _mm512_add_ps(load(hidden + at), load(added + at)));
        normalise(row, weight);
    }

    // Root-mean-square norm of a row of the residual stream into `normed_`.
    void normalise(int64_t row, const bf16* weight) {
        const bf16* hidden = hidden_.data() + row * model_.hidden;
        bf16* normed = normed_.data() + row * model_.hidden;
        __m512 squares = _mm512_setzero_ps();
        for (int64_t at = 0; at < model_.hidden; at += 16) squares = _mm512_fmadd_ps(load(hidden + at), load(hidden + at), squares);
        float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(model_.hidden);
        __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(mean + model_.norm_eps));
        for (int64_t at = 0; at < model_.hidden; at += 16)
            store(normed + at, _mm512_mul_ps(_mm512_mul_ps(load(hidden + at), scale), load(weight + at)));
    }

    const ModelView model_;
    const int64_t queries_, keys_, qkv_width_;
    const CacheShape cache_;
    const int64_t num_threads_;
    const bool has_matrix_unit_;
    std::vector<int64_t> order_;
    std::vector<Chunk> chunks_;
    std::vector<int8_t> quantised_;
    std::vector<float> scales_;
    std::vector<bf16> hidden_, normed_, qkv_, attended_, added_, gate_up_, inner_, sampled_;
    Pool pool_;
};

}  // namespace native
