// One forward pass of a decoder of any family. The threads of a pool share the work in one of two ways. Of a few rows each
// thread computes some outputs, in eight short jobs a layer, so that weights are read once. Many rows are dealt out in
// panels, one a thread, in two jobs a layer: what a thread has written stays in its cache, which is worth more than that
// every thread reads all weights.
#pragma once
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "activation.h"
#include "amx_attention.h"
#include "interface.h"
#include "linear.h"
#include "lora.h"
#include "norm.h"
#include "rope.h"
#include "threads.h"

namespace native::NATIVE_UNIT {

// `Element` is bf16 or float: what weights, activations and the cache are made of.
template <class Element>
class Decoder : public AnyDecoder {
  public:
    Decoder(const ModelView& model, int num_threads)
        : model_(model),
          queries_(model.num_heads * model.head_dim),
          keys_(model.num_kv_heads * model.head_dim),
          qkv_width_(queries_ + 2 * keys_),
          gate_up_width_(model.is_gated ? 2 * model.inner : model.inner),
          widest_(std::max({model.hidden, queries_, model.inner})),
          cache_{model.num_kv_heads, model.head_dim, model.block_size},
          scoring_{model.attention_scale, model.score_cap},
          on_tiles_(HAS_AMX && sizeof(Element) == 2 && model.head_dim % 32 == 0),
          num_threads_(num_threads),
          pool_(num_threads) {}

    bool forward(const PassView& pass) override {
        pool_.wake();
        prepare(pass);
        bool is_whole = panels_.size() > 1 ? run_panels(pass) : run_panel(pass);
        if (is_whole && pass.num_samples) compute_logits(pass);
        if (is_whole && pass.num_hidden) keep_hidden(pass);
        if (is_whole && pass.left) std::memcpy(pass.left, hidden_.data(), pass.rows * model_.hidden * sizeof(Element));
        return is_whole;
    }

    void argmax(const float* logits, int64_t rows, int64_t stride, int64_t width, int64_t* indices, bool* are_finite) override {
        pool_.wake();
        pool_.run(rows, [&](int64_t row) { indices[row] = NATIVE_UNIT::argmax(logits + row * stride, width, are_finite + row); });
    }

  private:
    static constexpr int64_t MAX_BLOCKS = 12;  // of outputs in a task
    static constexpr int64_t QUANTIZED = 8;    // rows in a task
    static constexpr int64_t PANEL_ROWS = 48;  // rows that are worth reading all weights by one thread

    // Rows of one adapter, which are worked on together.
    struct Chunk {
        int64_t adapter, begin, end;
    };

    // Rows [begin, end), whose chunks are [first_chunk, last_chunk). `is_fused`: no adapter comes between gate_up and
    // the activation, so that they are one job.
    struct Panel {
        int64_t begin, end, first_chunk, last_chunk;
        bool is_fused;
    };

    // How the tasks of a job are done: by all threads, or one after the other by the one that asks.
    struct Parallel {
        Pool& pool;
        template <class Function>
        void operator()(int64_t count, const Function& function) const {
            pool.run(count, function);
        }
    };
    struct Serial {
        template <class Function>
        void operator()(int64_t count, const Function& function) const {
            for (int64_t task = 0; task < count; task++) function(task);
        }
    };

    void prepare(const PassView& pass) {
        order_.resize(pass.rows);
        std::iota(order_.begin(), order_.end(), 0);
        chunks_.clear();
        panels_.clear();
        find_spans(pass);
        int64_t count = pass.rows < PANEL_ROWS * num_threads_ ? 1 : num_threads_, tiles = (pass.rows + 15) / 16;
        for (int64_t index = 0; index < count; index++)
            add_panel(pass, tiles * index / count * 16, std::min(pass.rows, tiles * (index + 1) / count * 16));
        for (auto [buffer, width] : {std::pair{&hidden_, model_.hidden}, {&normed_, model_.hidden}, {&qkv_, qkv_width_},
                                     {&attended_, queries_}, {&added_, model_.hidden}, {&gate_up_, gate_up_width_}, {&inner_, model_.inner}})
            grow(*buffer, pass.rows * width);
        grow(coefficients_, pass.rows * MAX_GATED);
        if (!QUANTIZES_ROWS) return;
        grow(levels_, pass.rows * widest_);
        for (auto* buffer : {&scales_, &sums_}) grow(*buffer, pass.rows * widest_ / GROUP);
        grow(offsets_, pass.rows * widest_ / GROUP);
    }

    // Rows that attention takes together: those of a tile on the matrix unit, else each alone.
    void find_spans(const PassView& pass) {
        spans_.clear();
        for (int64_t row = 0; row < pass.rows; row++) {
            const int64_t* table = pass.tables + pass.table_starts[row];
            bool follows = on_tiles_ && row && spans_.back().table == table && spans_.back().count < 16 &&
                           pass.positions[row] == pass.positions[row - 1] + 1;
            if (!follows) spans_.push_back({row, 0, pass.positions[row], table, 0});
            spans_.back().count++;
        }
    }

    void add_panel(const PassView& pass, int64_t begin, int64_t end) {
        Panel panel{begin, end, static_cast<int64_t>(chunks_.size()), 0, true};
        auto rows = order_.begin();
        std::stable_sort(rows + begin, rows + end, [&](int64_t a, int64_t b) { return pass.adapters[a] < pass.adapters[b]; });
        for (int64_t place = begin; place < end; place++) {
            int64_t adapter = pass.adapters[order_[place]];
            bool fits = place > begin && chunks_.back().adapter == adapter && place - chunks_.back().begin < CHUNK / 2;
            if (!fits) chunks_.push_back({adapter, place, place});
            chunks_.back().end = place + 1;
            if (pair_of(pass, order_[place], GATE) || pair_of(pass, order_[place], UP)) panel.is_fused = false;
        }
        panel.last_chunk = chunks_.size();
        panels_.push_back(panel);
    }

    // Whether to give up before `layer`: late in a pass it is not worth it.
    bool is_interrupted(const PassView& pass, int64_t layer) const {
        return pass.interrupts && layer <= model_.num_layers * 3 / 4 &&
               __atomic_load_n(pass.interrupts, __ATOMIC_RELAXED) > pass.acknowledged;
    }

    bool run_panel(const PassView& pass) {
        Parallel run{pool_};
        embed(pass, panels_[0], run);
        for (int64_t layer = 0; layer < model_.num_layers; layer++) {
            if (is_interrupted(pass, layer)) return false;
            begin_layer(pass, layer, panels_[0], run);
            attend(pass, layer);
            end_layer(pass, layer, panels_[0], run);
        }
        return true;
    }

    // Attention is a job of all: it looks at keys of other panels, and later rows have more of it to do.
    bool run_panels(const PassView& pass) {
        for (int64_t layer = -1; layer < model_.num_layers; layer++) {
            if (is_interrupted(pass, layer)) return false;
            if (layer >= 0) attend(pass, layer);
            pool_.run(panels_.size(), [&](int64_t index) {
                const Panel& panel = panels_[index];
                if (layer < 0) embed(pass, panel, Serial{});
                if (layer >= 0) end_layer(pass, layer, panel, Serial{});
                if (layer + 1 < model_.num_layers) begin_layer(pass, layer + 1, panel, Serial{});
            });
        }
        return true;
    }

    template <class Run>
    void embed(const PassView& pass, const Panel& panel, const Run& run) {
        by_chunk(panel, run, [&](const Chunk& chunk) {
            for (int64_t place = chunk.begin; place < chunk.end; place++) {
                int64_t row = order_[place];
                if (pass.stream)
                    std::memcpy(hidden_.data() + row * model_.hidden, of(pass.stream) + row * model_.hidden, model_.hidden * sizeof(Element));
                else
                    embed_row(pass, row);
                norm_hidden(row, model_.layers[0].attention_norm, shift_of(pass, row, ATTENTION_NORM, 0));
            }
        });
    }

    void embed_row(const PassView& pass, int64_t row) {
        int64_t token_id = pass.token_ids[row], width = model_.hidden;
        Element* hidden = hidden_.data() + row * width;
        std::memcpy(hidden, of(model_.embedding) + token_id * width, width * sizeof(Element));
        if (const PairView* pair = pair_of(pass, row, EMBEDDING)) add_lora_embedding(*pair, token_id, hidden, width);
        if (model_.embedding_multiplier != 1.0f) multiply_row(hidden, model_.embedding_multiplier);
    }

    template <class Run>
    void begin_layer(const PassView& pass, int64_t layer, const Panel& panel, const Run& run) {
        apply(model_.layers[layer].qkv, normed_.data(), panel, qkv_.data(), run);
        by_chunk(panel, run, [&](const Chunk& chunk) { rope_and_store(pass, layer, chunk); });
    }

    template <class Run>
    void end_layer(const PassView& pass, int64_t layer, const Panel& panel, const Run& run) {
        const LayerView& weights = model_.layers[layer];
        const bool is_last = layer + 1 == model_.num_layers;
        const NormView& next_norm = is_last ? model_.norm : model_.layers[layer + 1].attention_norm;
        apply(weights.o, attended_.data(), panel, added_.data(), run);
        by_chunk(panel, run, [&](const Chunk& chunk) {
            add_lora_rows(pass, O, layer, chunk, attended_.data(), queries_, added_.data(), model_.hidden, 0);
            for (int64_t place = chunk.begin; place < chunk.end; place++) {
                int64_t row = order_[place];
                add_block(row, of(weights.o_bias), weights.attention_out_norm, shift_of(pass, row, ATTENTION_OUT_NORM, layer));
                // Beside attention the MLP sees what attention saw.
                if (!model_.is_parallel) norm_hidden(row, weights.mlp_norm, shift_of(pass, row, MLP_NORM, layer));
            }
        });
        if (panel.is_fused) {
            apply_inner(weights, panel, run);
        } else {
            apply(weights.gate_up, normed_.data(), panel, gate_up_.data(), run);
            by_chunk(panel, run, [&](const Chunk& chunk) { activate(pass, layer, chunk); });
        }
        apply(weights.down, inner_.data(), panel, added_.data(), run);
        by_chunk(panel, run, [&](const Chunk& chunk) {
            add_lora_rows(pass, DOWN, layer, chunk, inner_.data(), model_.inner, added_.data(), model_.hidden, 0);
            for (int64_t place = chunk.begin; place < chunk.end; place++) {
                int64_t row = order_[place];
                add_block(row, of(weights.down_bias), weights.mlp_out_norm, shift_of(pass, row, MLP_OUT_NORM, layer));
                norm_hidden(row, next_norm, is_last ? shift_of(pass, row, LAST_NORM, 0) : shift_of(pass, row, ATTENTION_NORM, layer + 1));
            }
        });
    }

    // Logits of the sampled rows, which the last layer has left normalised.
    void compute_logits(const PassView& pass) {
        int64_t width = model_.hidden;
        grow(sampled_, pass.num_samples * width);
        for (int64_t at = 0; at < pass.num_samples; at++)
            std::memcpy(sampled_.data() + at * width, normed_.data() + pass.sample_rows[at] * width, width * sizeof(Element));
        Parallel run{pool_};
        Rows<Element> rows = rows_of(model_.head, sampled_.data(), 0, pass.num_samples, run);
        by_blocks(model_.head.out / BLOCK, run, [&](int64_t begin, int64_t end) {
            multiply(rows, model_.head, begin, end, {nullptr, pass.logits, model_.vocab});
        });
        pool_.run(pass.num_samples, [&](int64_t at) {
            const PairView* pair = pair_of(pass, pass.sample_rows[at], HEAD);
            const Element* row = sampled_.data() + at * width;
            float* logits = pass.logits + at * model_.vocab;
            if (pair) add_lora(*pair, 0, &row, &logits, 1, width, model_.vocab);
            bend_logits(logits);
        });
    }

    // Add the head's bias, multiply and cap, as far as the model does.
    void bend_logits(float* logits) const {
        if (!model_.head_bias && model_.logit_multiplier == 1.0f && !model_.logit_cap) return;
        F32 cap = F32::all(model_.logit_cap);
        for (int64_t at = 0; at < model_.vocab; at += 16) {
            F32 values = load(logits + at);
            if (model_.head_bias) values = values + load(of(model_.head_bias) + at);
            values = values * F32::all(model_.logit_multiplier);
            store(logits + at, model_.logit_cap ? cap * tanh(values / cap) : values);
        }
    }

    // The hidden rows, which the last layer has left normalised.
    void keep_hidden(const PassView& pass) {
        for (int64_t at = 0; at < pass.num_hidden; at++) {
            const Element* row = normed_.data() + pass.hidden_rows[at] * model_.hidden;
            for (int64_t column = 0; column < model_.hidden; column += 16)
                store(pass.states + at * model_.hidden + column, load(row + column));
        }
    }

    // What the adapter of `row` does to `target`, or null.
    static const PairView* pair_of(const PassView& pass, int64_t row, Target target) {
        if (pass.adapters[row] < 0) return nullptr;
        const PairView& pair = pass.adapter_views[pass.adapters[row]]->targets[target];
        return pair.rank || pair.bias ? &pair : nullptr;
    }

    // What the adapter of `row` adds to a norm's outputs, or null.
    const float* shift_of(const PassView& pass, int64_t row, Target norm, int64_t layer) const {
        const PairView* pair = pair_of(pass, row, norm);
        return pair ? pair->bias + layer * shape_of(norm).second : nullptr;
    }

    // The rows of a panel in `data` times a linear, into `out`.
    template <class Run>
    void apply(const LinearView& linear, const Element* data, const Panel& panel, Element* out, const Run& run) {
        Rows<Element> rows = rows_of(linear, data, panel.begin, panel.end, run);
        by_blocks(linear.out / BLOCK, run, [&](int64_t begin, int64_t end) {
            multiply(rows, linear, begin, end, {out + panel.begin * linear.out, nullptr, linear.out});
        });
    }

    // gate_up and the activation fused: of the same columns by the same thread, so that what is between stays in its cache.
    template <class Run>
    void apply_inner(const LayerView& layer, const Panel& panel, const Run& run) {
        Rows<Element> rows = rows_of(layer.gate_up, normed_.data(), panel.begin, panel.end, run);
        int64_t blocks = model_.inner / BLOCK;
        by_blocks(blocks, run, [&](int64_t begin, int64_t end) {
            static thread_local Buffer<Element> scratch;
            int64_t width = (end - begin) * BLOCK, stride = model_.is_gated ? 2 * width : width;
            grow(scratch, stride * rows.count);
            // Products go to the columns of their blocks, of which the first is at the beginning here.
            Out<Element> out{scratch.data(), nullptr, stride};
            multiply(rows, layer.gate_up, begin, end, out.from(-begin * BLOCK));
            if (model_.is_gated) multiply(rows, layer.gate_up, blocks + begin, blocks + end, out.from(width - (blocks + begin) * BLOCK));
            for (int64_t row = 0; row < rows.count; row++)
                inner_of(layer, scratch.data() + row * stride, width, begin * BLOCK)
                    .activate(model_.activation, width, inner_.data() + (panel.begin + row) * model_.inner + begin * BLOCK);
        });
    }

    // The parts of a row of products with gate_up: columns [from, from + width) of gates and, behind them, of ups.
    Inner<Element> inner_of(const LayerView& layer, const Element* products, int64_t width, int64_t from) const {
        const Element* bias = layer.gate_up_bias ? of(layer.gate_up_bias) + from : nullptr;
        if (!model_.is_gated) return {nullptr, products, nullptr, bias};
        return {products, products + width, bias, bias ? bias + model_.inner : nullptr};
    }

    // Call `function(begin, end)` for tasks as wide as let the threads share `blocks` evenly: the wider, the more often a row
    // is read from the cache. They begin with even blocks, which are multiplied with two at a time.
    template <class Run, class Function>
    void by_blocks(int64_t blocks, const Run& run, const Function& function) {
        int64_t rounds = (blocks + MAX_BLOCKS * num_threads_ - 1) / (MAX_BLOCKS * num_threads_), count = rounds * num_threads_;
        auto begin = [&](int64_t task) { return task < count ? (blocks * task / count + 1) / 2 * 2 : blocks; };
        run(count, [&](int64_t task) {
            if (begin(task) < begin(task + 1)) function(begin(task), begin(task + 1));
        });
    }

    // The rows [begin, end) of `data` as `linear` wants them.
    template <class Run>
    Rows<Element> rows_of(const LinearView& linear, const Element* data, int64_t begin, int64_t end, const Run& run) {
        Rows<Element> rows{data + begin * linear.in, end - begin, linear.in};
        if (!QUANTIZES_ROWS || linear.bits > 8) return rows;
        // Panels are at different linears, so that each has room for its widest rows.
        rows.quantized = Quantized{levels_.data(), scales_.data(), offsets_.data(), sums_.data()}.from(begin, widest_);
        run((rows.count + QUANTIZED - 1) / QUANTIZED, [&](int64_t task) {
            for (int64_t row = task * QUANTIZED; row < std::min(rows.count, (task + 1) * QUANTIZED); row++)
                quantize(rows.data + row * linear.in, linear.in, rows.quantized.from(row, linear.in));
        });
        return rows;
    }

    template <class Run, class Function>
    void by_chunk(const Panel& panel, const Run& run, const Function& function) {
        run(panel.last_chunk - panel.first_chunk, [&](int64_t index) { function(chunks_[panel.first_chunk + index]); });
    }

    // Add the adapter's update of `target` to columns from `to` on of the chunk's rows in `outs`.
    void add_lora_rows(const PassView& pass, Target target, int64_t layer, const Chunk& chunk, const Element* rows, int64_t stride, Element* outs,
                    int64_t width, int64_t to) {
        const PairView* pair = pair_of(pass, order_[chunk.begin], target);
        if (!pair) return;
        const Element* inputs[CHUNK];
        Element* outputs[CHUNK];
        const float* coefficients[CHUNK];
        float* told[CHUNK];
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            told[place - chunk.begin] = pass.coefficients + order_[place] * (MAX_GATED + 1);
            inputs[place - chunk.begin] = rows + order_[place] * stride;
            outputs[place - chunk.begin] = outs + order_[place] * width + to;
            coefficients[place - chunk.begin] = coefficients_.data() + order_[place] * MAX_GATED;
        }
        auto [in, out] = shape_of(target);
        add_lora(*pair, layer, inputs, outputs, chunk.end - chunk.begin, in, out, coefficients, pass.coefficients ? told : nullptr);
    }

    // Keep the coefficients of the chunk's rows for a layer, where its adapter's gate looks at the residual stream. One gate
    // is that of all its targets.
    void weigh_parts(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const GateView* gate = nullptr;
        for (int64_t target = Q; target <= DOWN && !gate; target++)
            if (const PairView* pair = pair_of(pass, order_[chunk.begin], static_cast<Target>(target))) gate = pair->gate;
        if (!gate || gate->kind != FLOW) return;
        const Element* streams[CHUNK];
        float* coefficients[CHUNK];
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            streams[place - chunk.begin] = hidden_.data() + order_[place] * model_.hidden;
            coefficients[place - chunk.begin] = coefficients_.data() + order_[place] * MAX_GATED;
        }
        weigh_stream(*gate, layer, streams, chunk.end - chunk.begin, model_.hidden, coefficients);
    }

    std::pair<int64_t, int64_t> shape_of(Target target) const {
        switch (target) {
            case Q: return {model_.hidden, queries_};
            case K:
            case V: return {model_.hidden, keys_};
            case O: return {queries_, model_.hidden};
            case DOWN: return {model_.inner, model_.hidden};
            case GATE:
            case UP: return {model_.hidden, model_.inner};
            case Q_NORM: return {queries_, queries_};
            case K_NORM: return {keys_, keys_};
            default: return {model_.hidden, model_.hidden};
        }
    }

    void rope_and_store(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const Element* rows = normed_.data();
        weigh_parts(pass, layer, chunk);
        add_lora_rows(pass, Q, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, 0);
        add_lora_rows(pass, K, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, queries_);
        add_lora_rows(pass, V, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, queries_ + keys_);
        const LayerView& weights = model_.layers[layer];
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            int64_t row = order_[place];
            Element* parts = qkv_.data() + row * qkv_width_;
            if (weights.qkv_bias) add_row(parts, of(weights.qkv_bias), qkv_width_);
            norm_heads(parts, queries_, weights.q_norm, shift_of(pass, row, Q_NORM, layer));
            norm_heads(parts + queries_, keys_, weights.k_norm, shift_of(pass, row, K_NORM, layer));
            if (weights.cos) turn(parts, weights, pass.positions[row]);
            write_cache(cache_, keys_of(pass, layer), values_of(pass, layer), pass.cache_slots[row], parts + queries_, parts + queries_ + keys_);
        }
    }

    // Queries or keys [width], each head by itself or all of them at once.
    void norm_heads(Element* heads, int64_t width, const NormView& norm, const float* shift) const {
        if (!norm.weight) return;
        int64_t step = model_.norms_whole ? width : model_.head_dim;
        for (int64_t at = 0; at < width; at += step) {
            NormView part{norm.weight + at, norm.bias ? norm.bias + at : nullptr};
            norm_row(heads + at, step, part, model_.norm_eps, heads + at, shift ? shift + at : nullptr);
        }
    }

    // Rotary embedding of the queries and keys of a row.
    void turn(Element* parts, const LayerView& layer, int64_t position) const {
        const float *cos = layer.cos + position * model_.rotary_dim, *sin = layer.sin + position * model_.rotary_dim;
        for (int64_t at = 0; at < queries_ + keys_; at += model_.head_dim) rope_head(parts + at, cos, sin, model_.rotary_dim, model_.is_interleaved);
    }

    void attend(const PassView& pass, int64_t layer) {
        // Few spans are shared out by the head, many by the span.
        int64_t heads = model_.num_kv_heads, count = spans_.size(), step = count < 2 * num_threads_ ? 1 : heads;
        pool_.run(count * heads / step, [&](int64_t task) {
            for (int64_t at = task * step; at < (task + 1) * step; at++) attend_head(pass, layer, spans_[at / heads], at % heads);
        });
    }

    void attend_head(const PassView& pass, int64_t layer, Span span, int64_t kv_head) {
        span.window = model_.layers[layer].window;
        int64_t group = model_.num_heads / model_.num_kv_heads, at = kv_head * group * model_.head_dim;
        const Element* queries = qkv_.data() + span.row * qkv_width_ + at;
        Element* out = attended_.data() + span.row * queries_ + at;
        if constexpr (HAS_AMX && sizeof(Element) == 2) {
            static thread_local AmxAttention<Element> attention;
            if (on_tiles_)
                return attention.attend(cache_, span, group, {queries, qkv_width_}, keys_of(pass, layer), values_of(pass, layer), kv_head, scoring_, {out, queries_});
        }
        static thread_local Attention<Element> attention;
        attention.attend(cache_, group, queries, keys_of(pass, layer), values_of(pass, layer), kv_head, span.seen_by(0), scoring_, out);
    }

    void activate(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const Element* rows = normed_.data();
        add_lora_rows(pass, GATE, layer, chunk, rows, model_.hidden, gate_up_.data(), gate_up_width_, 0);
        add_lora_rows(pass, UP, layer, chunk, rows, model_.hidden, gate_up_.data(), gate_up_width_, gate_up_width_ - model_.inner);
        for (int64_t place = chunk.begin; place < chunk.end; place++)
            inner_of(model_.layers[layer], gate_up_.data() + order_[place] * gate_up_width_, model_.inner, 0)
                .activate(model_.activation, model_.inner, inner_.data() + order_[place] * model_.inner);
    }

    // Add to a row of the residual stream what attention or the MLP made of it, with a bias and normed where the model has
    // that.
    void add_block(int64_t row, const Element* bias, const NormView& norm, const float* shift) {
        Element* hidden = hidden_.data() + row * model_.hidden;
        Element* added = added_.data() + row * model_.hidden;
        if (bias) add_row(added, bias, model_.hidden);
        if (norm.weight) norm_row(added, model_.hidden, norm, model_.norm_eps, added, shift);
        if (model_.residual_multiplier != 1.0f) multiply_row(added, model_.residual_multiplier);
        add_row(hidden, added, model_.hidden);
    }

    // A row of the residual stream into `normed_`, as the next block wants it.
    void norm_hidden(int64_t row, const NormView& norm, const float* shift) {
        const Element* hidden = hidden_.data() + row * model_.hidden;
        Element* normed = normed_.data() + row * model_.hidden;
        if (norm.weight) return norm_row(hidden, model_.hidden, norm, model_.norm_eps, normed, shift);
        std::memcpy(normed, hidden, model_.hidden * sizeof(Element));
    }

    static void add_row(Element* row, const Element* more, int64_t width) {
        for (int64_t at = 0; at < width; at += 16) store(row + at, load(row + at) + load(more + at));
    }

    void multiply_row(Element* row, float factor) const {
        for (int64_t at = 0; at < model_.hidden; at += 16) store(row + at, load(row + at) * F32::all(factor));
    }

    static const Element* of(const void* numbers) { return static_cast<const Element*>(numbers); }
    static Element* keys_of(const PassView& pass, int64_t layer) { return static_cast<Element*>(pass.keys[layer]); }
    static Element* values_of(const PassView& pass, int64_t layer) { return static_cast<Element*>(pass.values[layer]); }

    const ModelView model_;
    const int64_t queries_, keys_, qkv_width_, gate_up_width_, widest_;
    const CacheShape cache_;
    const Scoring scoring_;
    const bool on_tiles_;
    const int64_t num_threads_;
    Buffer<int64_t> order_;
    Buffer<Chunk> chunks_;
    Buffer<Panel> panels_;
    Buffer<Span> spans_;
    Buffer<int8_t> levels_;
    Buffer<float> scales_, sums_, coefficients_;
    Buffer<int32_t> offsets_;
    Buffer<Element> hidden_, normed_, qkv_, attended_, added_, gate_up_, inner_, sampled_;
    Pool pool_;
};

}  // namespace native::NATIVE_UNIT
