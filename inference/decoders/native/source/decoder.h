// One forward pass of a Llama-shaped decoder. The threads of a pool share the work in one of two ways. Of a few rows each
// thread computes some outputs, in eight short jobs a layer, so that weights are read once. Many rows are dealt out in
// panels, one a thread, in two jobs a layer: what a thread has written stays in its cache, which is worth more than that
// every thread reads all weights.
#pragma once
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "amx_attention.h"
#include "interface.h"
#include "linear.h"
#include "lora.h"
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
          widest_(std::max({model.hidden, queries_, model.inner})),
          cache_{model.num_kv_heads, model.head_dim, model.block_size},
          num_threads_(num_threads),
          pool_(num_threads) {}

    bool forward(const PassView& pass) override {
        pool_.wake();
        prepare(pass);
        bool is_whole = panels_.size() > 1 ? run_panels(pass) : run_panel(pass);
        if (is_whole && pass.num_samples) compute_logits(pass);
        if (is_whole && pass.num_hidden) keep_hidden(pass);
        return is_whole;
    }

    void argmax(const float* logits, int64_t rows, int64_t stride, int64_t width, int64_t* indices, bool* are_finite) override {
        pool_.wake();
        pool_.run(rows, [&](int64_t row) { indices[row] = NATIVE_UNIT::argmax(logits + row * stride, width, are_finite + row); });
    }

  private:
    static constexpr int64_t MAX_BLOCKS = 12;  // of outputs in a task
    static constexpr int64_t QUANTIZED = 8;    // rows in a task
    static constexpr bool ON_TILES = HAS_AMX && sizeof(Element) == 2;  // attention
    static constexpr int64_t PANEL_ROWS = 48;  // rows that are worth reading all weights by one thread

    // Rows of one adapter, which are worked on together.
    struct Chunk {
        int64_t adapter, begin, end;
    };

    // Rows [begin, end), whose chunks are [first_chunk, last_chunk). `is_fused`: no adapter comes between gate_up and
    // SwiGLU, so that they are one job.
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
                                     {&attended_, queries_}, {&added_, model_.hidden}, {&gate_up_, 2 * model_.inner}, {&inner_, model_.inner}})
            grow(*buffer, pass.rows * width);
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
            bool follows = ON_TILES && row && spans_.back().table == table && spans_.back().count < 16 &&
                           pass.positions[row] == pass.positions[row - 1] + 1;
            if (!follows) spans_.push_back({row, 0, pass.positions[row], table, model_.window});
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
                int64_t row = order_[place], width = model_.hidden;
                std::memcpy(hidden_.data() + row * width, of(model_.embedding) + pass.token_ids[row] * width, width * sizeof(Element));
                const PairView* pair = pair_of(pass, row, EMBEDDING);
                if (pair) add_lora_embedding(*pair, pass.token_ids[row], hidden_.data() + row * width, width);
                rms_norm(row, model_.layers[0].attention_norm);
            }
        });
    }

    template <class Run>
    void begin_layer(const PassView& pass, int64_t layer, const Panel& panel, const Run& run) {
        apply(model_.layers[layer].qkv, normed_.data(), panel, qkv_.data(), run);
        by_chunk(panel, run, [&](const Chunk& chunk) { rope_and_store(pass, layer, chunk); });
    }

    template <class Run>
    void end_layer(const PassView& pass, int64_t layer, const Panel& panel, const Run& run) {
        const LayerView& weights = model_.layers[layer];
        const void* next_norm = layer + 1 < model_.num_layers ? model_.layers[layer + 1].attention_norm : model_.norm;
        apply(weights.o, attended_.data(), panel, added_.data(), run);
        by_chunk(panel, run, [&](const Chunk& chunk) {
            add_lora_rows(pass, O, layer, chunk, attended_.data(), queries_, added_.data(), model_.hidden, 0);
            for (int64_t place = chunk.begin; place < chunk.end; place++) add_rms_norm(order_[place], weights.mlp_norm);
        });
        if (panel.is_fused) {
            apply_swiglu(weights.gate_up, panel, run);
        } else {
            apply(weights.gate_up, normed_.data(), panel, gate_up_.data(), run);
            by_chunk(panel, run, [&](const Chunk& chunk) { activate(pass, layer, chunk); });
        }
        apply(weights.down, inner_.data(), panel, added_.data(), run);
        by_chunk(panel, run, [&](const Chunk& chunk) {
            add_lora_rows(pass, DOWN, layer, chunk, inner_.data(), model_.inner, added_.data(), model_.hidden, 0);
            for (int64_t place = chunk.begin; place < chunk.end; place++) add_rms_norm(order_[place], next_norm);
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
        });
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
        return pair.rank ? &pair : nullptr;
    }

    // The rows of a panel in `data` times a linear, into `out`.
    template <class Run>
    void apply(const LinearView& linear, const Element* data, const Panel& panel, Element* out, const Run& run) {
        Rows<Element> rows = rows_of(linear, data, panel.begin, panel.end, run);
        by_blocks(linear.out / BLOCK, run, [&](int64_t begin, int64_t end) {
            multiply(rows, linear, begin, end, {out + panel.begin * linear.out, nullptr, linear.out});
        });
    }

    // gate_up and SwiGLU fused: of the same columns by the same thread, so that what is between stays in its cache.
    template <class Run>
    void apply_swiglu(const LinearView& linear, const Panel& panel, const Run& run) {
        Rows<Element> rows = rows_of(linear, normed_.data(), panel.begin, panel.end, run);
        int64_t blocks = model_.inner / BLOCK;
        by_blocks(blocks, run, [&](int64_t begin, int64_t end) {
            static thread_local Buffer<Element> scratch;
            int64_t width = (end - begin) * BLOCK;
            grow(scratch, 2 * width * rows.count);
            // Products go to the columns of their blocks, of which the first is at the beginning here.
            Out<Element> out{scratch.data(), nullptr, 2 * width};
            multiply(rows, linear, begin, end, out.from(-begin * BLOCK));
            multiply(rows, linear, blocks + begin, blocks + end, out.from(width - (blocks + begin) * BLOCK));
            for (int64_t row = 0; row < rows.count; row++) {
                const Element* gates = scratch.data() + row * 2 * width;
                swiglu(gates, gates + width, width, inner_.data() + (panel.begin + row) * model_.inner + begin * BLOCK);
            }
        });
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
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            inputs[place - chunk.begin] = rows + order_[place] * stride;
            outputs[place - chunk.begin] = outs + order_[place] * width + to;
        }
        auto [in, out] = shape_of(target);
        add_lora(*pair, layer, inputs, outputs, chunk.end - chunk.begin, in, out);
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

    void rope_and_store(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const Element* rows = normed_.data();
        add_lora_rows(pass, Q, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, 0);
        add_lora_rows(pass, K, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, queries_);
        add_lora_rows(pass, V, layer, chunk, rows, model_.hidden, qkv_.data(), qkv_width_, queries_ + keys_);
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            int64_t row = order_[place];
            Element* parts = qkv_.data() + row * qkv_width_;
            for (int64_t at = 0; at < queries_ + keys_; at += model_.head_dim) rope(parts + at, pass.positions[row]);
            write_cache(cache_, keys_of(pass, layer), values_of(pass, layer), pass.cache_slots[row], parts + queries_, parts + queries_ + keys_);
        }
    }

    // Rotary embedding of one head [head_dim] in place, its halves being the two coordinates.
    void rope(Element* head, int64_t position) const {
        int64_t half = model_.head_dim / 2;
        const float* cos = model_.cos + position * model_.head_dim;
        const float* sin = model_.sin + position * model_.head_dim;
        for (int64_t at = 0; at < half; at += 16) {
            F32 x = load(head + at), y = load(head + half + at), c = load(cos + at), s = load(sin + at);
            store(head + at, fmadd(x, c, -(y * s)));
            store(head + half + at, fmadd(y, c, x * s));
        }
    }

    void attend(const PassView& pass, int64_t layer) {
        // Few spans are shared out by the head, many by the span.
        int64_t heads = model_.num_kv_heads, count = spans_.size(), step = count < 2 * num_threads_ ? 1 : heads;
        pool_.run(count * heads / step, [&](int64_t task) {
            for (int64_t at = task * step; at < (task + 1) * step; at++) attend_head(pass, layer, spans_[at / heads], at % heads);
        });
    }

    void attend_head(const PassView& pass, int64_t layer, const Span& span, int64_t kv_head) {
        int64_t group = model_.num_heads / model_.num_kv_heads, at = kv_head * group * model_.head_dim;
        const Element* queries = qkv_.data() + span.row * qkv_width_ + at;
        Element* out = attended_.data() + span.row * queries_ + at;
        if constexpr (ON_TILES) {
            static thread_local AmxAttention<Element> attention;
            attention.attend(cache_, span, group, {queries, qkv_width_}, keys_of(pass, layer), values_of(pass, layer), kv_head, {out, queries_});
        } else {
            static thread_local Attention<Element> attention;
            attention.attend(cache_, group, queries, keys_of(pass, layer), values_of(pass, layer), kv_head, span.seen_by(0), out);
        }
    }

    void activate(const PassView& pass, int64_t layer, const Chunk& chunk) {
        const Element* rows = normed_.data();
        add_lora_rows(pass, GATE, layer, chunk, rows, model_.hidden, gate_up_.data(), 2 * model_.inner, 0);
        add_lora_rows(pass, UP, layer, chunk, rows, model_.hidden, gate_up_.data(), 2 * model_.inner, model_.inner);
        for (int64_t place = chunk.begin; place < chunk.end; place++) {
            const Element* gate = gate_up_.data() + order_[place] * 2 * model_.inner;
            swiglu(gate, gate + model_.inner, model_.inner, inner_.data() + order_[place] * model_.inner);
        }
    }

    static void swiglu(const Element* gates, const Element* ups, int64_t width, Element* out) {
        for (int64_t at = 0; at < width; at += 16) store(out + at, silu(load(gates + at)) * load(ups + at));
    }

    void add_rms_norm(int64_t row, const void* weight) {
        Element* hidden = hidden_.data() + row * model_.hidden;
        const Element* added = added_.data() + row * model_.hidden;
        for (int64_t at = 0; at < model_.hidden; at += 16) store(hidden + at, load(hidden + at) + load(added + at));
        rms_norm(row, weight);
    }

    // RMSNorm of a row of the residual stream into `normed_`.
    void rms_norm(int64_t row, const void* weight) {
        const Element* hidden = hidden_.data() + row * model_.hidden;
        Element* normed = normed_.data() + row * model_.hidden;
        F32 squares = {};
        for (int64_t at = 0; at < model_.hidden; at += 16) squares = fmadd(load(hidden + at), load(hidden + at), squares);
        float mean = total(squares) / static_cast<float>(model_.hidden);
        F32 scale = F32::all(1.0f / std::sqrt(mean + model_.norm_eps));
        for (int64_t at = 0; at < model_.hidden; at += 16) store(normed + at, load(hidden + at) * scale * load(of(weight) + at));
    }

    static const Element* of(const void* numbers) { return static_cast<const Element*>(numbers); }
    static Element* keys_of(const PassView& pass, int64_t layer) { return static_cast<Element*>(pass.keys[layer]); }
    static Element* values_of(const PassView& pass, int64_t layer) { return static_cast<Element*>(pass.values[layer]); }

    const ModelView model_;
    const int64_t queries_, keys_, qkv_width_, widest_;
    const CacheShape cache_;
    const int64_t num_threads_;
    Buffer<int64_t> order_;
    Buffer<Chunk> chunks_;
    Buffer<Panel> panels_;
    Buffer<Span> spans_;
    Buffer<int8_t> levels_;
    Buffer<float> scales_, sums_;
    Buffer<int32_t> offsets_;
    Buffer<Element> hidden_, normed_, qkv_, attended_, added_, gate_up_, inner_, sampled_;
    Pool pool_;
};

}  // namespace native::NATIVE_UNIT
