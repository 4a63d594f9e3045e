// What stands between the matrix products of a block: norms, rotation, gated activation, sums, and the loss of a tile.
// Each function has its plain twin in ops/pointwise.py, with the same arguments and meaning.
//
// Rows are T tokens. `ld` is the distance from one row to the next, in elements. Sizes are multiples of 16.
#include "numbers.hpp"

#define EACH_ROW _Pragma("omp parallel for schedule(static)") for (long row = 0; row < num_rows; row++)

// out = scale * stream / rms(stream), with 1 / rms kept for the backward.
KERNEL void rms_norm(const float* stream, const float* scale, float epsilon, Element* out, long ld, float* inverse,
                     long num_rows, long width) {
    EACH_ROW {
        const float* from = stream + row * width;
        Floats squares{};
        for (long i = 0; i < width; i += LANES) squares += load(from + i) * load(from + i);
        float factor = 1.0f / std::sqrt(sum(squares) / width + epsilon);
        inverse[row] = factor;
        for (long i = 0; i < width; i += LANES) store(out + row * ld + i, load(from + i) * factor * load(scale + i));
    }
}

// gradient = passed + d rms_norm; `passed` is what goes round the block, on the residual stream.
KERNEL void rms_norm_backward(const Element* upstream, long ld, const float* stream, const float* scale,
                              const float* inverse, const float* passed, float* gradient, long num_rows, long width) {
    EACH_ROW {
        const float* from = stream + row * width;
        const Element* up = upstream + row * ld;
        float factor = inverse[row];
        Floats dot{};
        for (long i = 0; i < width; i += LANES) dot += load(up + i) * load(scale + i) * load(from + i);
        float mean = sum(dot) * factor * factor / width;
        for (long i = 0; i < width; i += LANES) {
            Floats inner = (load(up + i) * load(scale + i) - load(from + i) * mean) * factor;
            store(gradient + row * width + i, inner + load(passed + row * width + i));
        }
    }
}

KERNEL void add(const float* stream, const Element* update, long ld, float* out, long num_rows, long width) {
    EACH_ROW {
        for (long i = 0; i < width; i += LANES)
            store(out + row * width + i, load(stream + row * width + i) + load(update + row * ld + i));
    }
}

// Rotate pairs (i, i + half) of every head, in place; sign -1 turns back, which is the gradient.
KERNEL void rotate(Element* heads, long ld, long num_heads, long head_size, const float* cosine, const float* sine,
                   long half, float sign, long num_rows) {
    EACH_ROW {
        for (long head = 0; head < num_heads; head++) {
            Element* low = heads + row * ld + head * head_size;
            Element* high = low + half;
            for (long i = 0; i < half; i += LANES) {
                Floats c = load(cosine + row * half + i), s = load(sine + row * half + i) * sign;
                Floats a = load(low + i), b = load(high + i);
                store(low + i, a * c - b * s);
                store(high + i, b * c + a * s);
            }
        }
    }
}

// RMS norm of every head on its own (Qwen3, Gemma 3), from one place to another.
KERNEL void head_norm(const Element* from, long ld_from, Element* to, long ld_to, long num_heads, long head_size,
                      const float* scale, float epsilon, float* inverse, long num_rows) {
    EACH_ROW {
        for (long head = 0; head < num_heads; head++) {
            const Element* in = from + row * ld_from + head * head_size;
            Element* out = to + row * ld_to + head * head_size;
            Floats squares{};
            for (long i = 0; i < head_size; i += LANES) squares += load(in + i) * load(in + i);
            float factor = 1.0f / std::sqrt(sum(squares) / head_size + epsilon);
            inverse[row * num_heads + head] = factor;
            for (long i = 0; i < head_size; i += LANES) store(out + i, load(in + i) * factor * load(scale + i));
        }
    }
}

// In place: the gradient after the norm becomes the gradient before it.
KERNEL void head_norm_backward(Element* gradient, long ld, const Element* from, long ld_from, long num_heads,
                               long head_size, const float* scale, const float* inverse, long num_rows) {
    EACH_ROW {
        for (long head = 0; head < num_heads; head++) {
            Element* up = gradient + row * ld + head * head_size;
            const Element* in = from + row * ld_from + head * head_size;
            float factor = inverse[row * num_heads + head];
            Floats dot{};
            for (long i = 0; i < head_size; i += LANES) dot += load(up + i) * load(scale + i) * load(in + i);
            float mean = sum(dot) * factor * factor / head_size;
            for (long i = 0; i < head_size; i += LANES)
                store(up + i, (load(up + i) * load(scale + i) - load(in + i) * mean) * factor);
        }
    }
}

// The gate's activation and its slope: silu, or gelu by tanh.
struct Silu {
    static void of(Floats x, Floats& value, Floats& slope) {
        Floats gate = 1.0f / (1.0f + exponential(-x));
        value = x * gate;
        slope = gate * (1.0f + x * (1.0f - gate));
    }
};

struct GeluTanh {
    static void of(Floats x, Floats& value, Floats& slope) {
        const float a = 0.7978845608028654f, b = 0.044715f;  // sqrt(2 / pi), Hendrycks & Gimpel (arXiv 1606.08415)
        Floats gate = 1.0f / (1.0f + exponential(-2.0f * a * (x + b * x * x * x)));  // (1 + tanh) / 2
        value = x * gate;
        slope = gate + x * gate * (1.0f - gate) * 2.0f * a * (1.0f + 3.0f * b * x * x);
    }
};

// out = act(gate) * up, where a row holds the gate's `width` elements and then the other ones.
template <typename Act>
static void gated(const Element* both, Element* out, long ld, long num_rows, long width) {
    EACH_ROW {
        const Element* gate = both + row * 2 * width;
        for (long i = 0; i < width; i += LANES) {
            Floats value, slope;
            Act::of(load(gate + i), value, slope);
            store(out + row * ld + i, value * load(gate + width + i));
        }
    }
}

// In place: gate and up become their gradients; the product is made once more, for the adapter that reads it.
template <typename Act>
static void gated_backward(const Element* upstream, long ld, Element* both, Element* product, long ld_product, long num_rows,
                           long width) {
    EACH_ROW {
        Element* gate = both + row * 2 * width;
        for (long i = 0; i < width; i += LANES) {
            Floats value, slope, other = load(gate + width + i), up = load(upstream + row * ld + i);
            Act::of(load(gate + i), value, slope);
            store(product + row * ld_product + i, value * other);
            store(gate + i, up * other * slope);
            store(gate + width + i, up * value);
        }
    }
}

// Logits of a tile become d log p(target) / d logits = onehot - softmax; log p(target) goes out.
KERNEL void loss_tile(Element* logits, const int64_t* targets, float* logprobs, long num_rows, long width) {
    EACH_ROW {
        Element* at = logits + row * width;
        Floats top = all(-INFINITY), total{};
        for (long i = 0; i < width; i += LANES) top = larger(top, load(at + i));
        float most = largest(top);
        for (long i = 0; i < width; i += LANES) total += exponential(load(at + i) - most);
        float mass = sum(total), chosen = widen(at[targets[row]]) - most;
        logprobs[row] = chosen - std::log(mass);
        for (long i = 0; i < width; i += LANES) store(at + i, exponential(load(at + i) - most) * (-1.0f / mass));
        narrow(1.0f - std::exp(chosen) / mass, at + targets[row]);
    }
}

KERNEL void silu(const Element* both, Element* out, long ld, long num_rows, long width) {
    gated<Silu>(both, out, ld, num_rows, width);
}
KERNEL void silu_backward(const Element* upstream, long ld, Element* both, Element* product, long ld_product,
                          long num_rows, long width) {
    gated_backward<Silu>(upstream, ld, both, product, ld_product, num_rows, width);
}
KERNEL void gelu_tanh(const Element* both, Element* out, long ld, long num_rows, long width) {
    gated<GeluTanh>(both, out, ld, num_rows, width);
}
KERNEL void gelu_tanh_backward(const Element* upstream, long ld, Element* both, Element* product, long ld_product,
                               long num_rows, long width) {
    gated_backward<GeluTanh>(upstream, ld, both, product, ld_product, num_rows, width);
}
